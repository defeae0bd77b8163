//! Secrets: one allocation each.

use crate::{ffi, window::Window, Arena, Error, ErrorKind, Read, Write};
use std::{
    fmt,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};

/// One allocation in an arena. Its bytes are reached in a window: [`Secret::read`], [`Secret::write`],
/// or with closures. Dropping it wipes and frees it.
///
/// There is one owner: share it as `Arc<Secret>`, which any number of threads may read at a time.
pub struct Secret {
    inner: Arc<Inner>,
}

/// Held by its Secret, and by windows that ended in the wrong order.
pub(crate) struct Inner {
    pub(crate) handle: ffi::Secret,
    pub(crate) size: usize,
    pub(crate) open_windows: AtomicUsize,
    _arena: Arena,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // One that was forgotten (mem::forget) is open for good: the secret stays until the arena goes.
        if *self.open_windows.get_mut() == 0 {
            // SAFETY: the handle is never mistaken for another secret's. Failing is counted and shown.
            unsafe { ffi::enclave_secret_free(&self.handle) };
        }
    }
}

impl Secret {
    pub(crate) fn new(arena: Arena, handle: ffi::Secret, size: usize) -> Self {
        let inner = Inner {
            handle,
            size,
            open_windows: AtomicUsize::new(0),
            _arena: arena,
        };
        Secret {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.inner.size
    }

    /// Whether the size is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its arena was not destroyed.
    pub fn is_alive(&self) -> bool {
        // SAFETY: the handle is valid.
        !unsafe { ffi::enclave_secret_address(&self.inner.handle) }.is_null()
    }

    /// Opens a window for reading, until it is dropped.
    pub fn read(&self) -> Result<Read<'_>, Error> {
        Ok(Read::new(Window::open(self, false)?))
    }

    /// Opens a window for reading and writing, until it is dropped.
    pub fn write(&mut self) -> Result<Write<'_>, Error> {
        Ok(Write::new(Window::open(self, true)?))
    }

    /// Gives a closure the bytes. Its result is dropped, and this an error, when the contents were not
    /// there all the while: what was made of them may have been made of zeros.
    pub fn with<R>(&self, body: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        let window = self.read()?;
        let result = body(&window);
        window.close()?;
        Ok(result)
    }

    /// Gives a closure the bytes to change; as [`Secret::with`].
    pub fn with_mut<R>(&mut self, body: impl FnOnce(&mut [u8]) -> R) -> Result<R, Error> {
        let mut window = self.write()?;
        let result = body(&mut window);
        window.close()?;
        Ok(result)
    }

    /// Whether it has these bytes, in a time that depends on their number alone.
    pub fn equals(&self, other: &[u8]) -> Result<bool, Error> {
        if self.len() != other.len() {
            return Ok(false);
        }
        // SAFETY: both are readable, and of that size.
        self.with(|own| unsafe {
            ffi::enclave_equal(own.as_ptr().cast(), other.as_ptr().cast(), own.len())
        })
    }

    /// Whether two secrets have the same bytes.
    pub fn equals_secret(&self, other: &Secret) -> Result<bool, Error> {
        other.with(|bytes| self.equals(bytes))?
    }

    /// Fills it from the system's randomness.
    pub fn fill_random(&mut self) -> Result<(), Error> {
        // SAFETY: the bytes may be written.
        let status = self.with_mut(|bytes| unsafe {
            ffi::enclave_fill_random(bytes.as_mut_ptr().cast(), bytes.len())
        })?;
        Error::check(status)
    }

    /// Makes it larger or smaller: new bytes are zeros, bytes that go are wiped.
    pub fn resize(&mut self, size: usize) -> Result<(), Error> {
        let Some(inner) = Arc::get_mut(&mut self.inner) else {
            return Err(Self::open_error());
        };
        // SAFETY: the handle is valid, and nobody else has it.
        Error::check(unsafe { ffi::enclave_secret_resize(&mut inner.handle, size) })?;
        inner.size = size;
        Ok(())
    }

    /// Wipes and frees it, as dropping does, and tells when that fails.
    pub fn destroy(self) -> Result<(), Error> {
        let mut inner = Arc::try_unwrap(self.inner).map_err(|_| Self::open_error())?;
        if *inner.open_windows.get_mut() != 0 {
            return Err(Self::open_error());
        }
        // SAFETY: the handle is valid; it is stale afterwards, and dropping it does nothing.
        let done = Error::check(unsafe { ffi::enclave_secret_free(&inner.handle) });
        match done {
            Err(error) if error.kind() == ErrorKind::Destroyed => Ok(()),
            other => other,
        }
    }

    fn open_error() -> Error {
        Error::new(
            ErrorKind::WindowsOpen,
            "a window to the secret is open: end it first",
        )
    }

    /// One more window; whoever drops the secret later sees it.
    pub(crate) fn count_window(&self) {
        self.inner.open_windows.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Secret {
    /// The size, nothing else.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({} bytes)", self.len())
    }
}

//! Secrets: one allocation each.

use crate::{ffi, window::Window, Arena, Error, ErrorKind, Read, Write};
use std::{
    fmt,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};

/// One allocation in an arena. Its bytes are accessible in a window ([`Secret::read`], [`Secret::write`]) or in
/// a closure ([`Secret::with`], [`Secret::with_mut`]). Dropping it wipes and frees it.
///
/// It has one owner. Any number of threads may read a shared `Arc<Secret>` at the same time.
pub struct Secret {
    inner: Arc<Inner>,
}

/// Owned by the Secret, and by windows that ended in the wrong order.
pub(crate) struct Inner {
    pub(crate) handle: ffi::Secret,
    pub(crate) size: usize,
    pub(crate) open_windows: AtomicUsize,
    _arena: Arena,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forgotten window (mem::forget) is open forever: the secret then lives as long as its arena.
        if *self.open_windows.get_mut() == 0 {
            // SAFETY: a stale handle never matches another secret. The library counts failures.
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

    /// Whether its arena still exists.
    pub fn is_alive(&self) -> bool {
        // SAFETY: the handle is valid.
        !unsafe { ffi::enclave_secret_address(&self.inner.handle) }.is_null()
    }

    /// Opens a window for reading; dropping it ends it.
    pub fn read(&self) -> Result<Read<'_>, Error> {
        Ok(Read::new(Window::open(self, false)?))
    }

    /// Opens a window for reading and writing; dropping it ends it.
    pub fn write(&mut self) -> Result<Write<'_>, Error> {
        Ok(Write::new(Window::open(self, true)?))
    }

    /// Passes the bytes to a closure. If they were wiped meanwhile, its result may have been computed from zeros:
    /// it is dropped, and an error is returned.
    pub fn with<R>(&self, body: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        let window = self.read()?;
        let result = body(&window);
        window.close()?;
        Ok(result)
    }

    /// Passes the bytes to a closure that may change them. See [`Secret::with`].
    pub fn with_mut<R>(&mut self, body: impl FnOnce(&mut [u8]) -> R) -> Result<R, Error> {
        let mut window = self.write()?;
        let result = body(&mut window);
        window.close()?;
        Ok(result)
    }

    /// Compares the bytes in a time that depends only on their number.
    pub fn equals(&self, other: &[u8]) -> Result<bool, Error> {
        if self.len() != other.len() {
            return Ok(false);
        }
        // SAFETY: both slices have this size.
        self.with(|own| unsafe {
            ffi::enclave_equal(own.as_ptr().cast(), other.as_ptr().cast(), own.len())
        })
    }

    /// Whether two secrets have the same bytes.
    pub fn equals_secret(&self, other: &Secret) -> Result<bool, Error> {
        other.with(|bytes| self.equals(bytes))?
    }

    /// Fills it with random bytes from the system.
    pub fn fill_random(&mut self) -> Result<(), Error> {
        // SAFETY: the slice is writable.
        let status = self.with_mut(|bytes| unsafe {
            ffi::enclave_fill_random(bytes.as_mut_ptr().cast(), bytes.len())
        })?;
        Error::check(status)
    }

    /// Changes the size. New bytes are zeros; removed bytes are wiped.
    pub fn resize(&mut self, size: usize) -> Result<(), Error> {
        let Some(inner) = Arc::get_mut(&mut self.inner) else {
            return Err(Self::open_error());
        };
        // SAFETY: the handle is valid and not shared.
        Error::check(unsafe { ffi::enclave_secret_resize(&mut inner.handle, size) })?;
        inner.size = size;
        Ok(())
    }

    /// Wipes and frees it like dropping, but returns the error if that fails.
    pub fn destroy(self) -> Result<(), Error> {
        let mut inner = Arc::try_unwrap(self.inner).map_err(|_| Self::open_error())?;
        if *inner.open_windows.get_mut() != 0 {
            return Err(Self::open_error());
        }
        // SAFETY: the handle is valid. It is stale afterwards, so that dropping it has no effect.
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

    /// Counts a window. Relaxed is enough: dropping the secret is synchronized with this thread anyway.
    pub(crate) fn count_window(&self) {
        self.inner.open_windows.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Secret {
    /// Shows only the size.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({} bytes)", self.len())
    }
}

//! Windows: the time in which a thread has a secret open.
//!
//! Under a key gate, windows of a thread must end in the opposite order: each puts back what it found. Guards
//! can be dropped in any order. So each thread keeps a list of its windows, and one that ends while a later
//! one is open closes together with that one:
//!
//! ```text
//! open A, open B, drop A:   [ended A] [open B]    both are open
//! drop B:                                         B closes, then A
//! ```

use crate::{ffi, secret::Inner, Error, ErrorKind, Secret};
use std::{
    cell::RefCell,
    ffi::c_int,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::{null_mut, NonNull},
    slice,
    sync::{atomic::Ordering, Arc},
};

enum Entry {
    Open(u64),
    /// Its guard is gone; the secret stays until it is closed.
    Ended(ffi::Window, Arc<Inner>),
}

#[derive(Default)]
struct Opened {
    last: u64,
    entries: Vec<Entry>,
}

thread_local! {
    static OPENED: RefCell<Opened> = RefCell::default();
}

pub(crate) struct Window<'a> {
    secret: &'a Secret,
    raw: ffi::Window,
    /// In this thread's list; 0 where there is none any more, as the thread is ending.
    number: u64,
    /// A window belongs to its thread.
    not_send: PhantomData<*mut ()>,
}

impl<'a> Window<'a> {
    pub(crate) fn open(secret: &'a Secret, writing: bool) -> Result<Self, Error> {
        let mut raw = ffi::Window::CLOSED;
        // SAFETY: the handle is valid, and the secret lives as long as the window.
        let status = unsafe {
            ffi::enclave_secret_open(
                &secret.inner().handle,
                c_int::from(writing),
                &mut raw,
                null_mut(),
            )
        };
        Error::check(status)?;
        secret.count_window();
        let number = OPENED
            .try_with(|opened| {
                let mut opened = opened.borrow_mut();
                opened.last += 1;
                let number = opened.last;
                opened.entries.push(Entry::Open(number));
                number
            })
            .unwrap_or(0);
        Ok(Window {
            secret,
            raw,
            number,
            not_send: PhantomData,
        })
    }

    fn start(&self) -> *mut u8 {
        NonNull::new(self.raw.bytes.cast())
            .unwrap_or_else(NonNull::dangling)
            .as_ptr()
    }

    fn len(&self) -> usize {
        self.secret.len()
    }

    fn close(self) -> Result<(), Error> {
        ManuallyDrop::new(self).end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let mut closable = Vec::new();
        let is_last = OPENED
            .try_with(|opened| {
                let entries = &mut opened.borrow_mut().entries;
                let is_own = |entry: &Entry| matches!(entry, Entry::Open(n) if *n == self.number);
                if entries.last().is_some_and(is_own) {
                    entries.pop();
                    while let Some(Entry::Ended(..)) = entries.last() {
                        closable.extend(entries.pop());
                    }
                    return true;
                }
                if let Some(own) = entries.iter_mut().rfind(|entry| is_own(entry)) {
                    *own = Entry::Ended(self.raw, self.secret.inner().clone());
                    return false;
                }
                true
            })
            .unwrap_or(true);
        if !is_last {
            return Err(Error::new(
                ErrorKind::WindowOrder,
                "a window ends while one that this thread opened later is open: it closes together \
                 with that one",
            ));
        }
        let result = close(&mut self.raw, self.secret.inner());
        // (Not while the list is borrowed: freeing a secret may call a handler.)
        for entry in closable {
            if let Entry::Ended(mut raw, inner) = entry {
                let _ = close(&mut raw, &inner);
            }
        }
        result
    }
}

fn close(raw: &mut ffi::Window, inner: &Inner) -> Result<(), Error> {
    // SAFETY: this thread opened it, and nothing shows its bytes any more.
    let status = unsafe { ffi::enclave_close(raw) };
    inner.open_windows.fetch_sub(1, Ordering::Relaxed);
    Error::check(status)
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A secret that is open for reading: a `[u8]` for as long as this lives.
///
/// It stays in its thread. The slice could go to another (`std::thread::scope`): under a key gate that one
/// faults, and the process ends; it never reads what it may not.
#[must_use = "the window ends when this is dropped"]
pub struct Read<'a> {
    window: Window<'a>,
}

impl<'a> Read<'a> {
    pub(crate) fn new(window: Window<'a>) -> Self {
        Read { window }
    }

    /// Ends the window, as dropping does, and tells whether its contents were there all the while. What
    /// was made of them is not to be used otherwise.
    pub fn close(self) -> Result<(), Error> {
        self.window.close()
    }
}

impl Deref for Read<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are there while the window is open: destroying its arena waits for windows. They
        // do not change: writing needs the secret exclusively, and `wipe_everything` is unsafe. The one
        // exception is exit(3), which writes zeros under windows of threads that are still running: in the
        // last moments of the process, to memory that stays mapped, and of a type that any byte is valid for.
        unsafe { slice::from_raw_parts(self.window.start(), self.window.len()) }
    }
}

impl fmt::Debug for Read<'_> {
    /// The size, nothing else.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Read({} bytes)", self.len())
    }
}

/// A secret that is open for reading and writing: a `[u8]` for as long as this lives. See [`Read`].
#[must_use = "the window ends when this is dropped"]
pub struct Write<'a> {
    window: Window<'a>,
    exclusive: PhantomData<&'a mut Secret>,
}

impl<'a> Write<'a> {
    /// The caller has the secret exclusively for 'a.
    pub(crate) fn new(window: Window<'a>) -> Self {
        Write {
            window,
            exclusive: PhantomData,
        }
    }

    /// Ends the window; see [`Read::close`].
    pub fn close(self) -> Result<(), Error> {
        self.window.close()
    }
}

impl Deref for Write<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as for `Read`.
        unsafe { slice::from_raw_parts(self.window.start(), self.window.len()) }
    }
}

impl DerefMut for Write<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `Read`; and this is the only window to the secret, which it holds exclusively.
        unsafe { slice::from_raw_parts_mut(self.window.start(), self.window.len()) }
    }
}

impl fmt::Debug for Write<'_> {
    /// The size, nothing else.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Write({} bytes)", self.len())
    }
}

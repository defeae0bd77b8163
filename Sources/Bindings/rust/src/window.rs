//! Windows: the time in which a thread has a secret open.
//!
//! Under a key gate, a thread's windows must close in reverse order, because each restores the previous access
//! rights. Rust values can be dropped in any order. So each thread keeps a list of its windows, and a window
//! that ends while a later one is open closes together with the later one:
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
    /// Its value was dropped. Keeps the secret until the window is closed.
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
    /// The window's number in this thread's list; 0 if the thread is ending and has no list any more.
    number: u64,
    /// Makes the type !Send: a window belongs to its thread.
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
        // (Only now that the list is not borrowed: freeing a secret may call the violation handler.)
        for entry in closable {
            if let Entry::Ended(mut raw, inner) = entry {
                let _ = close(&mut raw, &inner);
            }
        }
        result
    }
}

fn close(raw: &mut ffi::Window, inner: &Inner) -> Result<(), Error> {
    // SAFETY: this thread opened it, and its bytes are not borrowed any more.
    let status = unsafe { ffi::enclave_close(raw) };
    inner.open_windows.fetch_sub(1, Ordering::Relaxed);
    Error::check(status)
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A window for reading: a `[u8]` while this lives.
///
/// It cannot move to another thread. Its slice can (`std::thread::scope`): under a key gate, access from
/// another thread faults and ends the process.
#[must_use = "the window ends when this is dropped"]
pub struct Read<'a> {
    window: Window<'a>,
}

impl<'a> Read<'a> {
    pub(crate) fn new(window: Window<'a>) -> Self {
        Read { window }
    }

    /// Ends the window like dropping, but returns an error if its contents were wiped meanwhile. Results that
    /// were computed from them must then be discarded.
    pub fn close(self) -> Result<(), Error> {
        self.window.close()
    }
}

impl Deref for Read<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped while the window is open, because destroying an arena waits for windows.
        // They do not change, because writing needs exclusive access and `wipe_everything` is unsafe. The one
        // exception is exit(3), which zeroes them under windows of threads that are still running: at the end
        // of the process, in memory that stays mapped, and for a type in which every byte is valid.
        unsafe { slice::from_raw_parts(self.window.start(), self.window.len()) }
    }
}

impl fmt::Debug for Read<'_> {
    /// Shows only the size.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Read({} bytes)", self.len())
    }
}

/// A window for reading and writing: a `[u8]` while this lives. See [`Read`].
#[must_use = "the window ends when this is dropped"]
pub struct Write<'a> {
    window: Window<'a>,
    exclusive: PhantomData<&'a mut Secret>,
}

impl<'a> Write<'a> {
    /// The caller has exclusive access to the secret for 'a.
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
        // SAFETY: as for `Read`; and this is the secret's only window, since it has exclusive access.
        unsafe { slice::from_raw_parts_mut(self.window.start(), self.window.len()) }
    }
}

impl fmt::Debug for Write<'_> {
    /// Shows only the size.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Write({} bytes)", self.len())
    }
}

//! Arenas: named pages with one set of properties.

use crate::{
    ffi,
    options::{Options, Statistics},
    violation::{violation_of, Violation},
    Error, ErrorKind, Secret,
};
use std::{
    ffi::{c_int, c_void, CStr, CString},
    fmt,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    panic::Location,
    path::Path,
    ptr::{null_mut, NonNull},
    time::Duration,
};

/// Memory for secrets: named, locked, guarded, closed while nobody uses it, and wiped.
///
/// Clones refer to the same arena, which lives while one of them or one of its secrets exists. memwatch shows
/// the names of arenas and the labels of secrets to other processes. A secret without a label is counted
/// under the file and line of the call.
pub struct Arena {
    pointer: NonNull<ffi::Arena>,
}

// SAFETY: every function of the C interface may be called from any thread, and the reference count is atomic.
// No Arena gives out a reference into its memory.
unsafe impl Send for Arena {}
unsafe impl Sync for Arena {}

impl Arena {
    /// Creates an arena. Nothing is mapped before the first secret.
    pub fn new(name: &str, options: &Options) -> Result<Arena, Error> {
        let name = text(name)?;
        let flags = [
            options.own_key,
            options.secret_memory,
            options.tagged,
            options.kept_at_exit,
            options.ends_at_guard,
        ];
        let given = ffi::Options {
            struct_size: size_of::<ffi::Options>(),
            layout: options.layout as c_int,
            lock: options.lock as c_int,
            gate: options.gate as c_int,
            flags: (0u32..)
                .zip(flags)
                .map(|(bit, is_set)| u32::from(is_set) << bit)
                .sum(),
            capacity: options.capacity,
        };
        let mut pointer = null_mut();
        // SAFETY: all are valid for the call, which copies the name.
        Error::check(unsafe { ffi::enclave_arena_create(name.as_ptr(), &given, &mut pointer) })?;
        let pointer = NonNull::new(pointer).expect("an arena that was made has an address");
        Ok(Arena { pointer })
    }

    /// Allocates a secret of this many zeros.
    #[track_caller]
    pub fn allocate<'a>(
        &self,
        size: usize,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        self.make(size, 0, &label_or_site(label.into(), Location::caller())?)
    }

    /// The same, aligned to `alignment`, a power of two up to 4096.
    #[track_caller]
    pub fn allocate_aligned<'a>(
        &self,
        size: usize,
        alignment: usize,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        self.make(
            size,
            alignment,
            &label_or_site(label.into(), Location::caller())?,
        )
    }

    /// Allocates a secret of random bytes from the system: getrandom(2).
    #[track_caller]
    pub fn allocate_random<'a>(
        &self,
        size: usize,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        let mut secret = self.make(size, 0, &label)?;
        secret.fill_random()?;
        Ok(secret)
    }

    /// Allocates a secret with a copy of these bytes; the source is unchanged.
    #[track_caller]
    pub fn allocate_copying<'a>(
        &self,
        source: &[u8],
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        let mut secret = self.make(source.len(), 0, &label)?;
        secret.with_mut(|bytes| bytes.copy_from_slice(source))?;
        Ok(secret)
    }

    /// Moves bytes into a secret: the source is zeroed. Earlier copies remain, for example of a Vec that
    /// grew. On failure the source is unchanged.
    #[track_caller]
    pub fn allocate_wiping<'a>(
        &self,
        source: &mut [u8],
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        let mut secret = self.make(source.len(), 0, &label)?;
        secret.with_mut(|bytes| bytes.copy_from_slice(source))?;
        crate::wipe(source);
        Ok(secret)
    }

    /// Reads a line without echo directly into a secret; no String is created. Reads from the process's
    /// terminal (/dev/tty), otherwise from standard input; at most 1,024 bytes.
    #[track_caller]
    pub fn read_passphrase<'a>(
        &self,
        prompt: &str,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        match File::options().read(true).write(true).open("/dev/tty") {
            Ok(terminal) => self.line(terminal.as_fd(), prompt, 0, &label),
            Err(_) => self.line(io::stdin().as_fd(), prompt, 0, &label),
        }
    }

    /// The same from any descriptor. One that is not a terminal is read up to a newline or its end.
    #[track_caller]
    pub fn read_passphrase_from<'a>(
        &self,
        input: impl AsFd,
        prompt: &str,
        limit: usize,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        self.line(input.as_fd(), prompt, limit, &label)
    }

    /// Reads a file directly into a secret, such as a key or a systemd credential. `EndOfInput` if it has
    /// more than `limit` bytes.
    #[track_caller]
    pub fn read_file<'a>(
        &self,
        path: impl AsRef<Path>,
        limit: usize,
        label: impl Into<Option<&'a str>>,
    ) -> Result<Secret, Error> {
        let label = label_or_site(label.into(), Location::caller())?;
        let mut file = File::open(path)?;
        let status = file.metadata()?;
        // Files in /proc and pipes report a size of 0.
        let is_known = status.is_file() && status.len() > 0;
        let expected = if is_known {
            usize::try_from(status.len()).unwrap_or(usize::MAX)
        } else {
            limit
        };
        let too_long = || {
            Error::new(
                ErrorKind::EndOfInput,
                format!("the file has more than {limit} bytes"),
            )
        };
        if expected > limit {
            return Err(too_long());
        }
        let mut secret = self.make(expected.saturating_add(1), 0, &label)?;
        let mut received = 0;
        {
            let mut window = secret.write()?;
            while received < window.len() {
                match file.read(&mut window[received..]) {
                    Ok(0) => break,
                    Ok(count) => received += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            window.close()?;
        }
        if received > expected {
            return Err(too_long());
        }
        secret.resize(received)?;
        Ok(secret)
    }

    /// Makes the arena write-once: contents can only be read. `WindowsOpen` while any window for writing is
    /// open.
    pub fn freeze(&self) -> Result<(), Error> {
        // SAFETY: the arena is held, here and below.
        Error::check(unsafe { ffi::enclave_arena_freeze(self.as_ptr()) })
    }

    /// Freezes it, and makes the kernel refuse every change to its mappings until exit: mseal(2).
    pub fn seal(&self) -> Result<(), Error> {
        Error::check(unsafe { ffi::enclave_arena_seal(self.as_ptr()) })
    }

    /// Wipes and unmaps it with its secrets. Does nothing if it is destroyed already. Waits this long for
    /// open windows of any thread; then returns `WindowsOpen`, and the arena is unchanged.
    pub fn destroy(&self, wait: Duration) -> Result<(), Error> {
        let milliseconds = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let done = Error::check(unsafe { ffi::enclave_arena_destroy(self.as_ptr(), milliseconds) });
        match done {
            Err(error) if error.kind() == ErrorKind::Destroyed => Ok(()),
            other => other,
        }
    }

    /// Returns memory that holds no secret to the system; the result is the number of bytes.
    pub fn trim(&self) -> Result<usize, Error> {
        let mut given = 0;
        Error::check(unsafe { ffi::enclave_arena_trim(self.as_ptr(), &mut given) })?;
        Ok(given)
    }

    /// Checks every canary and every free slot, and returns the violations. O(memory).
    pub fn check(&self) -> Result<Vec<Violation>, Error> {
        extern "C" fn each(violation: *const ffi::Violation, context: *mut c_void) {
            // SAFETY: `context` is the vector below, which only this call accesses meanwhile.
            unsafe { (*context.cast::<Vec<Violation>>()).push(violation_of(&*violation)) }
        }
        let mut found: Vec<Violation> = Vec::new();
        Error::check(unsafe {
            ffi::enclave_arena_check(
                self.as_ptr(),
                Some(each),
                (&raw mut found).cast(),
                null_mut(),
            )
        })?;
        Ok(found)
    }

    /// The current statistics.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let mut now = ffi::Statistics {
            struct_size: size_of::<ffi::Statistics>(),
            ..Default::default()
        };
        Error::check(unsafe { ffi::enclave_arena_statistics(self.as_ptr(), &mut now) })?;
        Ok(Statistics {
            secret_count: now.secret_count,
            bytes_in_use: now.bytes_in_use,
            bytes_mapped: now.bytes_mapped,
            bytes_locked: now.bytes_locked,
            idle_bytes: now.idle_bytes,
            open_windows: now.open_windows,
            abandoned_windows: now.abandoned_windows,
            separate_pages: now.separate_pages,
            merged_pages: now.merged_pages,
            stuck_open_pages: now.stuck_open_pages,
            failed_locks: now.failed_locks,
            failed_opens: now.failed_opens,
            failed_allocations: now.failed_allocations,
            corruptions: now.corruptions,
            retired_slots: now.retired_slots,
            is_frozen: now.is_frozen,
            is_sealed: now.is_sealed,
            protection_key: u32::try_from(now.protection_key).ok(),
        })
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::Arena {
        self.pointer.as_ptr()
    }

    fn make(&self, size: usize, alignment: usize, label: &CStr) -> Result<Secret, Error> {
        let mut handle = ffi::Secret::default();
        // SAFETY: all are valid for the call, which copies the label.
        Error::check(unsafe {
            ffi::enclave_secret_allocate(
                self.as_ptr(),
                size,
                alignment,
                label.as_ptr(),
                &mut handle,
            )
        })?;
        Ok(Secret::new(self.clone(), handle, size))
    }

    fn line(
        &self,
        input: BorrowedFd<'_>,
        prompt: &str,
        limit: usize,
        label: &CStr,
    ) -> Result<Secret, Error> {
        let prompt = text(prompt)?;
        let mut handle = ffi::Secret::default();
        // SAFETY: all are valid for the call.
        Error::check(unsafe {
            ffi::enclave_read_passphrase(
                self.as_ptr(),
                prompt.as_ptr(),
                input.as_raw_fd(),
                limit,
                label.as_ptr(),
                &mut handle,
            )
        })?;
        // SAFETY: the handle is valid.
        let size = unsafe { ffi::enclave_secret_size(&handle) };
        Ok(Secret::new(self.clone(), handle, size))
    }
}

pub(crate) fn text(text: &str) -> Result<CString, Error> {
    CString::new(text)
        .map_err(|_| Error::new(ErrorKind::Argument, "names and labels must not contain NUL characters"))
}

fn label_or_site(label: Option<&str>, site: &Location<'_>) -> Result<CString, Error> {
    match label {
        Some(label) => text(label),
        None => {
            let file = site.file().rsplit('/').next().unwrap_or_default();
            text(&format!("{file}:{}", site.line()))
        }
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        // SAFETY: the arena is held.
        unsafe { ffi::enclave_arena_retain(self.as_ptr()) };
        Arena {
            pointer: self.pointer,
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this releases this value's own reference; every secret holds another.
        unsafe { ffi::enclave_arena_release(self.as_ptr()) }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Arena")
    }
}

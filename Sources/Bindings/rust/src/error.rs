//! Errors: a kind for each status of `enclave.h`.

use crate::ffi;
use std::{
    ffi::{c_int, CStr},
    fmt, io,
};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A system call failed: see [`Error::errno`].
    System,
    /// This machine lacks the requested mechanism.
    Unsupported,
    /// vm.max_map_count.
    MapLimit,
    /// RLIMIT_MEMLOCK.
    LockLimit,
    /// The arena's own capacity, or its key's nonces, are used up.
    Capacity,
    /// Above 2 GiB, or an invalid alignment.
    Size,
    /// The arena can only be read.
    Frozen,
    /// The arena or the secret no longer exists, or everything was wiped while a window was open.
    Destroyed,
    /// The arena belongs to the parent of this process.
    InheritedByFork,
    /// Windows are open: end them first.
    WindowsOpen,
    /// Only an arena with a key or cipher gate can be sealed.
    NeedsKey,
    /// The process already publishes.
    Publishing,
    /// The directory cannot hold the stats page.
    Directory,
    /// An invalid argument, or a text that contains a NUL.
    Argument,
    /// The arena is being changed, and this thread cannot wait.
    Busy,
    /// Cipher gate: the secret was changed outside a window.
    Tampered,
    /// The input ended too early.
    EndOfInput,
    /// A window ended while this thread has a later one open. It closes together with the later one; whether its
    /// contents were intact is not known yet.
    WindowOrder,
    /// A status that is newer than this crate.
    Other(i32),
}

/// An error: what was requested, what the system answered and what to do. Never holds contents of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    errno: i32,
    message: String,
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno behind `System` and `Unsupported`, otherwise 0.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            errno: 0,
            message: message.into(),
        }
    }

    /// The error of this thread's last failed call.
    pub(crate) fn last(status: c_int) -> Self {
        // SAFETY: the text is valid until this thread's next failure.
        let (text, errno) = unsafe {
            (
                CStr::from_ptr(ffi::enclave_last_error()),
                ffi::enclave_last_errno(),
            )
        };
        let kind = match status {
            1 => ErrorKind::System,
            2 => ErrorKind::Unsupported,
            3 => ErrorKind::MapLimit,
            4 => ErrorKind::LockLimit,
            5 => ErrorKind::Capacity,
            6 => ErrorKind::Size,
            7 => ErrorKind::Frozen,
            8 => ErrorKind::Destroyed,
            9 => ErrorKind::InheritedByFork,
            10 => ErrorKind::WindowsOpen,
            11 => ErrorKind::NeedsKey,
            12 => ErrorKind::Publishing,
            13 => ErrorKind::Directory,
            14 => ErrorKind::Argument,
            18 => ErrorKind::Busy,
            20 => ErrorKind::Tampered,
            21 => ErrorKind::EndOfInput,
            other => ErrorKind::Other(other),
        };
        Error {
            kind,
            errno,
            message: text.to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn check(status: c_int) -> Result<(), Error> {
        if status == 0 {
            Ok(())
        } else {
            Err(Error::last(status))
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::UnexpectedEof => ErrorKind::EndOfInput,
            _ => ErrorKind::System,
        };
        Error {
            kind,
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        }
    }
}

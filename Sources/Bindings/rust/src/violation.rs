//! Violations: misuse of memory that the library detected.

use crate::ffi;
use std::{
    ffi::{c_char, c_int, c_void, CStr},
    panic::{catch_unwind, AssertUnwindSafe},
    ptr::null_mut,
    sync::RwLock,
};

/// How memory was misused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ViolationKind {
    Overflow,
    Underflow,
    WriteAfterFree,
    DoubleFree,
    ForeignPointer,
    FreedWhileOpen,
    Tampered,
    Other(i32),
}

/// A violation, as found by [`crate::Arena::check`] or passed to a violation handler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// How memory was misused.
    pub kind: ViolationKind,
    /// The arena's name; empty if the violation concerns none.
    pub arena: String,
    /// The secret's label.
    pub label: Option<String>,
    /// A description in one line.
    pub description: String,
    /// The secret's size in bytes; 0 if the violation concerns none.
    pub size: usize,
    /// Offset of the first wrong byte from the start of the secret.
    pub offset: isize,
}

pub(crate) fn violation_of(given: &ffi::Violation) -> Violation {
    let string = |text: *const c_char| {
        // SAFETY: the texts are valid during the callback.
        (!text.is_null()).then(|| {
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        })
    };
    Violation {
        kind: match given.kind {
            1 => ViolationKind::Overflow,
            2 => ViolationKind::Underflow,
            3 => ViolationKind::WriteAfterFree,
            4 => ViolationKind::DoubleFree,
            5 => ViolationKind::ForeignPointer,
            6 => ViolationKind::FreedWhileOpen,
            7 => ViolationKind::Tampered,
            other => ViolationKind::Other(other),
        },
        arena: string(given.arena).unwrap_or_default(),
        label: string(given.label),
        description: string(given.description).unwrap_or_default(),
        size: given.size,
        offset: given.offset,
    }
}

/// A handler's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Response {
    /// Wipe every arena, print the violation, abort(3).
    EndProcess = 0,
    /// Continue.
    Continue = 1,
}

type Handler = fn(&Violation) -> Response;

static HANDLER: RwLock<Option<Handler>> = RwLock::new(None);

/// Sets the handler that decides about violations; None: violations end the process.
///
/// It runs on the thread that found the violation. If it panics, the process ends.
pub fn set_violation_handler(handler: Option<Handler>) {
    extern "C" fn ask(violation: *const ffi::Violation, _: *mut c_void) -> c_int {
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let handler = *HANDLER
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            // SAFETY: the violation is valid during this callback.
            handler.map(|handler| handler(&violation_of(unsafe { &*violation })))
        }));
        answer.ok().flatten().unwrap_or(Response::EndProcess) as c_int
    }
    *HANDLER
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = handler;
    // SAFETY: the function lives as long as the process, unless this crate is in a library that is unloaded.
    unsafe { ffi::enclave_set_violation_handler(handler.map(|_| ask as ffi::Handler), null_mut()) }
}

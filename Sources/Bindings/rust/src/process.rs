//! Process-wide functions: wiping, capabilities, publishing.

use crate::{arena::text, ffi, Error};
use std::{ffi::c_int, ptr::null};

/// Mechanisms that a machine or a process may have; see `enclave.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Capability {
    ProtectionKeys = 1,
    Seals = 2,
    SecretMemory = 3,
    GuardMarkers = 4,
    WipeOnFork = 5,
    MemoryTagging = 6,
    ThreadsStartClosed = 7,
    Interposer = 8,
}

/// Returns an error with the reason if the mechanism is missing. Asks the kernel each time.
pub fn probe(capability: Capability) -> Result<(), Error> {
    // SAFETY: the call has no preconditions.
    Error::check(unsafe { ffi::enclave_probe(capability as c_int) })
}

/// Zeros the bytes. The compiler cannot remove the call.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: the slice is writable.
    unsafe { ffi::enclave_wipe(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Wipes every arena of the process at once. Every later use of one is an error.
///
/// # Safety
///
/// The slices of open windows change to zeros, although they are borrowed. Either no thread has a window open,
/// or code in windows must stay sound whatever bytes it reads.
pub unsafe fn wipe_everything() -> Result<(), Error> {
    // SAFETY: ensured by the caller.
    Error::check(unsafe { ffi::enclave_wipe_everything() })
}

/// Makes terminating signals and faults wipe every arena before the process ends. Call it before starting
/// threads if possible.
///
/// # Safety
///
/// Other threads run until the process ends, as in [`wipe_everything`]. Code in windows must stay sound
/// whatever bytes it reads.
pub unsafe fn wipe_on_signals() -> Result<(), Error> {
    // SAFETY: ensured by the caller.
    Error::check(unsafe { ffi::enclave_wipe_on_signals() })
}

/// Whether the stats page holds the addresses of chunks, so that memwatch can audit each arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// While other processes may read this process's maps anyway: PR_GET_DUMPABLE of prctl(2).
    #[default]
    WhileDumpable = 0,
    /// Always.
    Always = 1,
    /// Never: memwatch then compares totals only.
    Never = 2,
}

/// Options for publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOptions<'a> {
    /// The name under which memwatch shows the process; None: its command's name.
    pub name: Option<&'a str>,
    /// Whether the page holds addresses.
    pub addresses: Addresses,
    /// The interval of publishing in milliseconds, and so the resolution of the page's times: 10 to 10,000.
    pub tick_milliseconds: u32,
    /// The maximum number of secrets that are listed individually; others are counted under their labels.
    pub listed_secrets: u32,
    /// The maximum number of arenas that are listed; others are only counted.
    pub listed_arenas: u32,
}

impl Default for PublishOptions<'_> {
    fn default() -> Self {
        PublishOptions {
            name: None,
            addresses: Addresses::default(),
            tick_milliseconds: 100,
            listed_secrets: 4096,
            listed_arenas: 256,
        }
    }
}

/// Publishes names, counts, sizes and states for memwatch, until [`publish_stop`] or exit.
/// `ENCLAVE_STATS=1` in the environment does the same when the first arena is created.
pub fn publish_start(options: &PublishOptions<'_>) -> Result<(), Error> {
    let name = options.name.map(text).transpose()?;
    let given = ffi::PublishOptions {
        struct_size: size_of::<ffi::PublishOptions>(),
        name: name.as_ref().map_or(null(), |name| name.as_ptr()),
        addresses: options.addresses as c_int,
        tick_milliseconds: options.tick_milliseconds,
        listed_secrets: options.listed_secrets,
        listed_arenas: options.listed_arenas,
    };
    // SAFETY: the options are valid for the call, which copies the name.
    Error::check(unsafe { ffi::enclave_publish_start_with(&given) })
}

/// Removes the stats page.
pub fn publish_stop() {
    // SAFETY: the call has no preconditions.
    unsafe { ffi::enclave_publish_stop() }
}

/// Publishes the current counts now instead of at the next tick.
pub fn publish_refresh() {
    // SAFETY: the call has no preconditions.
    unsafe { ffi::enclave_publish_refresh() }
}

//! What is about the whole process: wiping, capabilities, publishing.

use crate::{arena::text, ffi, Error};
use std::{ffi::c_int, ptr::null};

/// What a machine has, or a process; see `enclave.h`.
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

/// Whether the machine has it, and why not. Asks the kernel each time.
pub fn probe(capability: Capability) -> Result<(), Error> {
    // SAFETY: there is nothing to keep.
    Error::check(unsafe { ffi::enclave_probe(capability as c_int) })
}

/// Zeros, never optimised away.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: the bytes may be written.
    unsafe { ffi::enclave_wipe(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Wipes every arena of the process, now; each use of one is an error from then on.
///
/// # Safety
///
/// What windows show becomes zeros while it is read: slices that should not change. No window may be
/// open in any thread; or what runs in windows must stay safe whatever bytes it reads.
pub unsafe fn wipe_everything() -> Result<(), Error> {
    // SAFETY: the caller's.
    Error::check(unsafe { ffi::enclave_wipe_everything() })
}

/// Has signals that end the process, and faults, wipe every arena first. Best called before there are
/// threads.
///
/// # Safety
///
/// As for [`wipe_everything`]: other threads run on until the process ends. What runs in windows must
/// stay safe whatever bytes it reads.
pub unsafe fn wipe_on_signals() -> Result<(), Error> {
    // SAFETY: the caller's.
    Error::check(unsafe { ffi::enclave_wipe_on_signals() })
}

/// Whether the stats page tells where chunks lie, so that memwatch can audit each arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// While others may read this process' maps anyway: prctl(2).
    #[default]
    WhileDumpable = 0,
    /// Also where others may not.
    Always = 1,
    /// memwatch compares totals then.
    Never = 2,
}

/// How to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOptions<'a> {
    /// What memwatch calls the process; None: its command's name.
    pub name: Option<&'a str>,
    /// Whether the page tells addresses.
    pub addresses: Addresses,
    /// How fine the page's times are: 10 to 10,000.
    pub tick_milliseconds: u32,
    /// So many secrets are listed one by one, the others counted under their labels.
    pub listed_secrets: u32,
    /// So many arenas are listed, the others counted.
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
/// `ENCLAVE_STATS=1` in the environment does the same when the first arena is made.
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

/// Takes the page away.
pub fn publish_stop() {
    // SAFETY: there is nothing to keep.
    unsafe { ffi::enclave_publish_stop() }
}

/// Writes the counts as they are now, rather than at the next tick.
pub fn publish_refresh() {
    // SAFETY: there is nothing to keep.
    unsafe { ffi::enclave_publish_refresh() }
}

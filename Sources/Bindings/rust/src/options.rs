//! An arena's properties and counts.

/// How secrets are placed in an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Many secrets per page, with a canary behind each.
    #[default]
    Slab = 0,
    /// Separate pages for each secret, with its data against a guard page.
    Isolated = 1,
}

/// Whether memory must be locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Allocating fails if the memory cannot be locked.
    #[default]
    Required = 0,
    /// Unlocked memory is used, and shown as partial or unlocked.
    Preferred = 1,
    /// Memory is not locked.
    Off = 2,
}

/// What closes an arena while nobody uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gate {
    /// A protection key if available, otherwise pages.
    #[default]
    Automatic = 0,
    /// A window opens the arena for its own thread, without a system call.
    Key = 1,
    /// A window opens a secret's pages for every thread: mprotect(2).
    Pages = 2,
    /// Always readable and writable.
    None = 3,
    /// Contents are encrypted at rest; a window is its thread's locked copy.
    Cipher = 4,
}

/// An arena's properties; `..Options::default()` keeps the other defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How secrets are placed.
    pub layout: Layout,
    /// Whether memory must be locked.
    pub lock: Lock,
    /// What closes the arena.
    pub gate: Gate,
    /// The maximum number of data bytes that it maps; 0: unlimited.
    pub capacity: usize,
    /// A protection key that no other arena shares.
    pub own_key: bool,
    /// memfd_secret(2): inaccessible to the kernel itself.
    pub secret_memory: bool,
    /// Memory tags (arm64).
    pub tagged: bool,
    /// exit(3), and so `std::process::exit` and the end of `main`, does not wipe it. Without this it does,
    /// also under windows that other threads have open then: see the crate's documentation.
    pub kept_at_exit: bool,
    /// Secrets in separate pages end exactly at the guard page.
    pub ends_at_guard: bool,
}

/// An arena's counts; see `enclave.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct Statistics {
    pub secret_count: u64,
    pub bytes_in_use: u64,
    pub bytes_mapped: u64,
    pub bytes_locked: u64,
    pub idle_bytes: u64,
    pub open_windows: u64,
    pub abandoned_windows: u64,
    pub separate_pages: u64,
    pub merged_pages: u64,
    pub stuck_open_pages: u64,
    pub failed_locks: u64,
    pub failed_opens: u64,
    pub failed_allocations: u64,
    pub corruptions: u64,
    pub retired_slots: u64,
    pub is_frozen: bool,
    pub is_sealed: bool,
    pub protection_key: Option<u32>,
}

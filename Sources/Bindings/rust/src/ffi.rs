//! The declarations of `enclave.h` that this crate uses.

use std::ffi::{c_char, c_int, c_void};

#[repr(C)]
pub struct Arena {
    _private: [u8; 0],
}

#[repr(C)]
pub struct Options {
    pub struct_size: usize,
    pub layout: c_int,
    pub lock: c_int,
    pub gate: c_int,
    pub flags: u32,
    pub capacity: usize,
}

#[repr(C)]
#[derive(Default)]
pub struct Statistics {
    pub struct_size: usize,
    pub secret_count: u64,
    pub bytes_in_use: u64,
    pub bytes_mapped: u64,
    pub bytes_locked: u64,
    pub open_windows: u64,
    pub separate_pages: u64,
    pub merged_pages: u64,
    pub stuck_open_pages: u64,
    pub failed_locks: u64,
    pub failed_opens: u64,
    pub failed_allocations: u64,
    pub corruptions: u64,
    pub protection_key: i32,
    pub is_frozen: bool,
    pub is_sealed: bool,
    pub idle_bytes: u64,
    pub abandoned_windows: u64,
    pub retired_slots: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    pub bytes: *mut c_void,
    pub state: [u64; 6],
}

impl Window {
    pub const CLOSED: Window = Window {
        bytes: std::ptr::null_mut(),
        state: [0; 6],
    };
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Secret {
    pub state: [u64; 4],
}

#[repr(C)]
pub struct Violation {
    pub kind: c_int,
    pub arena: *const c_char,
    pub label: *const c_char,
    pub description: *const c_char,
    pub size: usize,
    pub offset: isize,
}

#[repr(C)]
pub struct PublishOptions {
    pub struct_size: usize,
    pub name: *const c_char,
    pub addresses: c_int,
    pub tick_milliseconds: u32,
    pub listed_secrets: u32,
    pub listed_arenas: u32,
}

pub type Handler = extern "C" fn(*const Violation, *mut c_void) -> c_int;
pub type Each = extern "C" fn(*const Violation, *mut c_void);

#[rustfmt::skip]
extern "C" {
    pub fn enclave_last_error() -> *const c_char;
    pub fn enclave_last_errno() -> c_int;
    pub fn enclave_probe(capability: c_int) -> c_int;
    pub fn enclave_arena_create(
        name: *const c_char, options: *const Options, arena: *mut *mut Arena) -> c_int;
    pub fn enclave_arena_retain(arena: *mut Arena) -> *mut Arena;
    pub fn enclave_arena_release(arena: *mut Arena);
    pub fn enclave_arena_freeze(arena: *mut Arena) -> c_int;
    pub fn enclave_arena_seal(arena: *mut Arena) -> c_int;
    pub fn enclave_arena_destroy(arena: *mut Arena, wait_milliseconds: u32) -> c_int;
    pub fn enclave_arena_trim(arena: *mut Arena, bytes_returned: *mut usize) -> c_int;
    pub fn enclave_arena_statistics(arena: *mut Arena, statistics: *mut Statistics) -> c_int;
    pub fn enclave_arena_check(
        arena: *mut Arena, each: Option<Each>, context: *mut c_void, count: *mut usize) -> c_int;
    pub fn enclave_secret_allocate(
        arena: *mut Arena, size: usize, alignment: usize, label: *const c_char,
        secret: *mut Secret) -> c_int;
    pub fn enclave_secret_size(secret: *const Secret) -> usize;
    pub fn enclave_secret_address(secret: *const Secret) -> *mut c_void;
    pub fn enclave_secret_open(
        secret: *const Secret, access: c_int, window: *mut Window, bytes: *mut *mut c_void)
        -> c_int;
    pub fn enclave_secret_free(secret: *const Secret) -> c_int;
    pub fn enclave_secret_resize(secret: *mut Secret, size: usize) -> c_int;
    pub fn enclave_read_passphrase(
        arena: *mut Arena, prompt: *const c_char, descriptor: c_int, limit: usize,
        label: *const c_char, secret: *mut Secret) -> c_int;
    pub fn enclave_close(window: *mut Window) -> c_int;
    pub fn enclave_equal(a: *const c_void, b: *const c_void, size: usize) -> bool;
    pub fn enclave_wipe(start: *mut c_void, size: usize);
    pub fn enclave_fill_random(start: *mut c_void, size: usize) -> c_int;
    pub fn enclave_wipe_everything() -> c_int;
    pub fn enclave_wipe_on_signals() -> c_int;
    pub fn enclave_set_violation_handler(handler: Option<Handler>, context: *mut c_void);
    pub fn enclave_publish_start_with(options: *const PublishOptions) -> c_int;
    pub fn enclave_publish_stop();
    pub fn enclave_publish_refresh();
}

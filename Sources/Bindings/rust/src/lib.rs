//! Memory for secrets: mapped, locked, guarded, closed while nobody uses it, and wiped. memwatch shows the
//! arenas while the program runs.
//!
//! ```
//! use enclave::{Arena, Lock, Options};
//!
//! # fn main() -> Result<(), enclave::Error> {
//! let arena = Arena::new("tls-keys", &Options { lock: Lock::Preferred, ..Options::default() })?;
//! let mut key = arena.allocate_random(32, "session ticket key")?;
//! {
//!     let mut window = key.write()?; // a [u8] until the block ends
//!     window[0] &= 0x7f;
//! }
//! let sum = key.with(|bytes| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>())?;
//! # let _ = sum;
//! drop(key); // wiped
//! # Ok(())
//! # }
//! ```
//!
//! The crate wraps the C interface of the Enclave library. `enclave.h` documents each function.
//!
//! # Windows
//!
//! A window's slice cannot outlive the window:
//!
//! ```compile_fail,E0597
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let secret = arena.allocate(8, None).unwrap();
//! let bytes: &[u8];
//! {
//!     let window = secret.read().unwrap();
//!     bytes = &window;
//! }
//! assert_eq!(bytes[0], 0);
//! ```
//!
//! The window cannot outlive its secret:
//!
//! ```compile_fail,E0505
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let secret = arena.allocate(8, None).unwrap();
//! let window = secret.read().unwrap();
//! drop(secret);
//! assert_eq!(window[0], 0);
//! ```
//!
//! The argument of a closure cannot leave it:
//!
//! ```compile_fail
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let secret = arena.allocate(8, None).unwrap();
//! let bytes = secret.with(|bytes| bytes).unwrap();
//! assert_eq!(bytes[0], 0);
//! ```
//!
//! Writing is exclusive:
//!
//! ```compile_fail,E0502
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let mut secret = arena.allocate(8, None).unwrap();
//! let reading = secret.read().unwrap();
//! let writing = secret.write().unwrap();
//! assert_eq!(reading[0], 0);
//! ```
//!
//! A window cannot move to another thread:
//!
//! ```compile_fail,E0277
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let secret = arena.allocate(8, None).unwrap();
//! let window = secret.read().unwrap();
//! std::thread::scope(|scope| scope.spawn(move || window[0]));
//! ```
//!
//! For the same reason, a task that may change threads cannot await in a window:
//!
//! ```compile_fail
//! # let arena = enclave::Arena::new("test", &enclave::Options::default()).unwrap();
//! # let secret = arena.allocate(8, None).unwrap();
//! fn spawn(task: impl std::future::Future<Output = u8> + Send) {}
//! spawn(async move {
//!     let window = secret.read().unwrap();
//!     std::future::ready(()).await;
//!     window[0]
//! });
//! ```
//!
//! The corresponding code that compiles:
//!
//! ```
//! # let options = enclave::Options { lock: enclave::Lock::Preferred, ..Default::default() };
//! # let arena = enclave::Arena::new("test", &options).unwrap();
//! # let mut secret = arena.allocate(8, None).unwrap();
//! {
//!     let window = secret.read().unwrap();
//!     let bytes: &[u8] = &window;
//!     assert_eq!(bytes[0], 0);
//! }
//! assert_eq!(secret.with(|bytes| bytes[0]).unwrap(), 0);
//! secret.write().unwrap()[0] = 1;
//! assert_eq!(secret.read().unwrap()[0], 1);
//! std::thread::scope(|scope| {
//!     scope.spawn(|| assert_eq!(secret.read().unwrap()[0], 1));
//! });
//! fn spawn(task: impl std::future::Future<Output = u8> + Send) {}
//! spawn(async move {
//!     let first = secret.read().unwrap()[0];
//!     std::future::ready(()).await;
//!     first
//! });
//! ```
//!
//! # Fork
//!
//! In a forked child, operations on the parent's arenas return `InheritedByFork`, and their memory is zeros or
//! absent. A child may create its own arenas.
//!
//! # Exit
//!
//! exit(3), which `std::process::exit` and the end of `main` call, wipes every arena and leaves it mapped.
//! Threads that are still in a window then read zeros: join them first, or create their arena with
//! `kept_at_exit`. `std::process::abort` wipes nothing, nor do signals without [`wipe_on_signals`]. A `Secret`
//! in a `static` is never dropped; exit wipes it.

mod arena;
mod error;
mod ffi;
mod options;
mod process;
mod secret;
mod violation;
mod window;

pub use arena::Arena;
pub use error::{Error, ErrorKind};
pub use options::{Gate, Layout, Lock, Options, Statistics};
pub use process::{
    probe, publish_refresh, publish_start, publish_stop, wipe, wipe_everything, wipe_on_signals,
    Addresses, Capability, PublishOptions,
};
pub use secret::Secret;
pub use violation::{set_violation_handler, Response, Violation, ViolationKind};
pub use window::{Read, Write};

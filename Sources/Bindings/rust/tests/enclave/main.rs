//! Tests of the crate's public interface.

mod alone;

use enclave::{
    Addresses, Arena, Capability, ErrorKind, Gate, Layout, Lock, Options, PublishOptions, Secret,
};
use std::{
    env,
    io::Write as _,
    os::unix::process::ExitStatusExt,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

/// Options that work on machines where the tests' memory cannot be locked.
fn options() -> Options {
    Options {
        lock: Lock::Preferred,
        ..Options::default()
    }
}

fn arena() -> Arena {
    Arena::new("test", &options()).unwrap()
}

fn open_windows(arena: &Arena) -> u64 {
    arena.statistics().unwrap().open_windows
}

/// Runs a test of `alone.rs`, which is otherwise ignored, in a process of its own.
fn alone(test: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            test,
            "--nocapture",
            "--test-threads=1",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn bytes_are_kept_under_every_gate_and_layout() {
    for gate in [Gate::Key, Gate::Pages, Gate::None, Gate::Cipher] {
        for layout in [Layout::Slab, Layout::Isolated] {
            if gate == Gate::Key && enclave::probe(Capability::ProtectionKeys).is_err() {
                continue;
            }
            let arena = Arena::new(
                "gates",
                &Options {
                    gate,
                    layout,
                    ..options()
                },
            )
            .unwrap();
            let mut secret = match arena.allocate(300, None) {
                // The library was built without libsodium.
                Err(error) if gate == Gate::Cipher && error.kind() == ErrorKind::Unsupported => {
                    continue
                }
                made => made.unwrap(),
            };
            assert_eq!(&secret.read().unwrap()[..], [0; 300]);
            secret.write().unwrap().fill(7);
            let outer = secret.read().unwrap();
            let inner = secret.read().unwrap();
            assert_eq!(outer[..], inner[..]);
            assert_eq!(outer[..], [7; 300]);
            assert_eq!(open_windows(&arena), 2);
            inner.close().unwrap();
            outer.close().unwrap();
            assert_eq!(open_windows(&arena), 0);
        }
    }
}

#[test]
fn windows_end_in_any_order() {
    let arena = arena();
    let mut first = arena.allocate(1, None).unwrap();
    let second = arena.allocate(1, None).unwrap();
    let outer = first.read().unwrap();
    let inner = second.read().unwrap();
    assert_eq!(outer.close().unwrap_err().kind(), ErrorKind::WindowOrder);
    assert_eq!(open_windows(&arena), 2);
    assert_eq!(first.resize(2).unwrap_err().kind(), ErrorKind::WindowsOpen);
    assert_eq!(inner[0], 0);
    // Its window is still open, so it is freed when that ends.
    drop(first);
    assert_eq!(arena.statistics().unwrap().secret_count, 2);
    inner.close().unwrap();
    assert_eq!(open_windows(&arena), 0);
    assert_eq!(arena.statistics().unwrap().secret_count, 1);
    let third = arena.allocate(1, None).unwrap();
    let (a, b, c) = (
        second.read().unwrap(),
        third.read().unwrap(),
        second.read().unwrap(),
    );
    drop(b);
    drop(a);
    drop(c);
    assert_eq!(open_windows(&arena), 0);
}

#[test]
fn forgotten_windows_keep_their_secret() {
    let arena = arena();
    let secret = arena.allocate(1, None).unwrap();
    std::mem::forget(secret.read().unwrap());
    assert_eq!(secret.destroy().unwrap_err().kind(), ErrorKind::WindowsOpen);
    assert_eq!(arena.statistics().unwrap().secret_count, 1);
}

#[test]
fn a_panic_closes_windows() {
    let arena = arena();
    let secret = arena.allocate(1, None).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        secret.with(|bytes| assert_eq!(bytes[0], 1))
    }));
    assert!(result.is_err());
    assert_eq!(open_windows(&arena), 0);
}

#[test]
fn sources_are_copied_or_wiped() {
    let arena = arena();
    let mut source = b"hunter2".to_vec();
    let copied = arena.allocate_copying(&source, None).unwrap();
    assert_eq!(source, b"hunter2");
    let wiped = arena.allocate_wiping(&mut source, None).unwrap();
    assert_eq!(source, [0; 7]);
    assert!(copied.equals_secret(&wiped).unwrap() && wiped.equals(b"hunter2").unwrap());
    for other in [&b"hunter3"[..], b"hunter", b""] {
        assert!(!wiped.equals(other).unwrap());
    }
    assert!(!arena
        .allocate(7, None)
        .unwrap()
        .equals_secret(&wiped)
        .unwrap());
    assert!(arena.allocate_wiping(&mut [], None).unwrap().is_empty());
    arena.freeze().unwrap();
    let mut source = *b"abc";
    let error = arena.allocate_wiping(&mut source, None).unwrap_err();
    assert_eq!((error.kind(), &source), (ErrorKind::Frozen, b"abc"));
}

#[test]
fn random_and_aligned_secrets() {
    let arena = arena();
    let (a, b) = (
        arena.allocate_random(32, None).unwrap(),
        arena.allocate_random(32, "b").unwrap(),
    );
    assert!(!a.equals_secret(&b).unwrap());
    let aligned = arena.allocate_aligned(10, 256, None).unwrap();
    assert_eq!(aligned.read().unwrap().as_ptr() as usize % 256, 0);
    assert_eq!(
        arena.allocate_aligned(10, 3, None).unwrap_err().kind(),
        ErrorKind::Size
    );
}

#[test]
fn secrets_are_resized_and_destroyed() {
    let arena = arena();
    let mut secret = arena.allocate_copying(b"abcdef", None).unwrap();
    secret.resize(3).unwrap();
    assert!(secret.equals(b"abc").unwrap());
    secret.resize(5000).unwrap();
    assert_eq!(
        (secret.len(), &secret.read().unwrap()[..4]),
        (5000, &b"abc\0"[..])
    );
    assert_eq!(secret.resize(3 << 30).unwrap_err().kind(), ErrorKind::Size);
    assert_eq!(
        format!("{secret:?} {:?}", secret.read().unwrap()),
        "Secret(5000 bytes) Read(5000 bytes)"
    );
    secret.destroy().unwrap();
    assert_eq!(arena.statistics().unwrap().secret_count, 0);

    let secret = arena.allocate(8, None).unwrap();
    let window = secret.read().unwrap();
    assert_eq!(
        arena.destroy(Duration::ZERO).unwrap_err().kind(),
        ErrorKind::WindowsOpen
    );
    assert_eq!(window[0], 0);
    drop(window);
    arena.destroy(Duration::ZERO).unwrap();
    arena.destroy(Duration::ZERO).unwrap();
    assert!(!secret.is_alive());
    assert_eq!(secret.read().unwrap_err().kind(), ErrorKind::Destroyed);
    secret.destroy().unwrap();
}

#[test]
fn an_arena_lives_as_long_as_its_secrets() {
    let secret = arena().allocate_copying(b"abc", None).unwrap();
    assert!(secret.equals(b"abc").unwrap());
}

#[test]
fn arenas_are_frozen_and_sealed() {
    let arena = Arena::new(
        "frozen",
        &Options {
            gate: Gate::Pages,
            ..options()
        },
    )
    .unwrap();
    let mut secret = arena.allocate_copying(b"abc", None).unwrap();
    arena.freeze().unwrap();
    assert_eq!(secret.write().unwrap_err().kind(), ErrorKind::Frozen);
    assert!(secret.equals(b"abc").unwrap());
    assert_eq!(arena.seal().unwrap_err().kind(), ErrorKind::NeedsKey);
    drop(secret);
    let statistics = arena.statistics().unwrap();
    assert!(statistics.is_frozen && statistics.retired_slots == 1);
}

#[test]
fn options_are_checked_and_errors_typed() {
    let error = Arena::new("a\0b", &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    let small = Arena::new(
        "small",
        &Options {
            capacity: 4096,
            ..options()
        },
    )
    .unwrap();
    let error = small.allocate(100_000, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Capacity);
    assert!(error.to_string().contains("capacity"));
    let guarded = Options {
        layout: Layout::Isolated,
        ends_at_guard: true,
        kept_at_exit: true,
        ..options()
    };
    let secret = Arena::new("guarded", &guarded)
        .unwrap()
        .allocate(30, None)
        .unwrap();
    assert_eq!((secret.read().unwrap().as_ptr() as usize + 30) % 4096, 0);
    if enclave::probe(Capability::MemoryTagging).is_err() {
        let tagged = Options {
            tagged: true,
            ..options()
        };
        let error = Arena::new("t", &tagged)
            .and_then(|arena| arena.allocate(1, None))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let arena = arena();
    arena.allocate(100_000, None).unwrap().destroy().unwrap();
    assert_eq!(
        arena.statistics().unwrap().idle_bytes,
        arena.trim().unwrap() as u64
    );
    assert_eq!(arena.check().unwrap(), []);
}

#[test]
fn threads_share_a_secret() {
    fn both<T: Send + Sync>() {}
    both::<Arena>();
    both::<Secret>();
    let arena = arena();
    let secret = Arc::new(arena.allocate_copying(&[7; 64], None).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (arena, secret) = (arena.clone(), secret.clone());
            thread::spawn(move || {
                for _ in 0..500 {
                    assert!(secret.equals(&[7; 64]).unwrap());
                    let mut own = arena.allocate_random(40, None).unwrap();
                    own.write().unwrap()[0] = 1;
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let statistics = arena.statistics().unwrap();
    assert_eq!((statistics.open_windows, statistics.secret_count), (0, 1));
}

#[test]
fn secrets_are_read_from_lines_and_files() {
    let arena = arena();
    let path = env::temp_dir().join(format!("enclave-test-{}", std::process::id()));
    std::fs::write(&path, b"open sesame\nrest").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let line = arena.read_passphrase_from(&file, "? ", 0, "typed").unwrap();
    assert!(line.equals(b"open sesame").unwrap());
    let error = arena.read_passphrase_from(&file, "", 2, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EndOfInput);
    assert!(arena
        .read_file(&path, 16, None)
        .unwrap()
        .equals(b"open sesame\nrest")
        .unwrap());
    let error = arena.read_file(&path, 15, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EndOfInput);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(arena.read_file(&path, 15, None).unwrap_err().errno(), 2);
    assert!(!arena
        .read_file("/proc/self/comm", 100, None)
        .unwrap()
        .is_empty());
}

#[test]
fn raw_pointers_fault_after_their_window() {
    let faulted = alone("alone::reads_behind_a_gate");
    assert_eq!(faulted.status.signal(), Some(11), "{faulted:?}");
    assert!(alone("alone::reads_without_a_gate").status.success());
}

#[test]
fn violations_end_the_process() {
    let result = alone("alone::violates");
    assert_eq!(result.status.signal(), Some(6), "{result:?}");
    let output = String::from_utf8_lossy(&result.stdout);
    assert!(
        output.contains("heard Overflow") && output.contains("last"),
        "{output}"
    );
    assert!(!output.contains("not reached"));
}

#[test]
fn process_wide_functions_work() {
    for (test, last) in [
        ("alone::wipes", "wiped"),
        ("alone::forks", "forked"),
        ("alone::publishes", "published"),
    ] {
        let result = alone(test);
        let output = String::from_utf8_lossy(&result.stdout);
        assert!(
            result.status.success() && output.contains(last),
            "{test}: {result:?}"
        );
    }
}

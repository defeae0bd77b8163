//! Tests of which each ends or permanently changes its process.

use super::*;

fn read_after_its_window(gate: Gate) {
    let arena = Arena::new("a", &Options { gate, ..options() }).unwrap();
    let secret = arena.allocate(8, None).unwrap();
    let pointer = secret.read().unwrap().as_ptr();
    // SAFETY: it is not safe if a gate has closed the memory.
    println!("read {}", unsafe { pointer.read_volatile() });
}

#[test]
#[ignore]
fn reads_behind_a_gate() {
    read_after_its_window(Gate::Pages);
}

#[test]
#[ignore]
fn reads_without_a_gate() {
    read_after_its_window(Gate::None);
}

#[test]
#[ignore]
fn violates() {
    let gate = Gate::None;
    let arena = Arena::new("violated", &Options { gate, ..options() }).unwrap();
    let overflow = |secret: &mut Secret| {
        let pointer = secret.write().unwrap().as_mut_ptr();
        // SAFETY: it is not safe: there is a canary.
        unsafe { *pointer.add(32) ^= 0xff };
    };
    let mut secret = arena.allocate(32, "too short").unwrap();
    overflow(&mut secret);
    let found = arena.check().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, enclave::ViolationKind::Overflow);
    assert_eq!(
        (found[0].label.as_deref(), found[0].offset),
        (Some("too short"), 32)
    );
    enclave::set_violation_handler(Some(|violation| {
        println!("heard {:?}", violation.kind);
        enclave::Response::Continue
    }));
    secret.destroy().unwrap();
    enclave::set_violation_handler(None);
    let mut secret = arena.allocate(32, None).unwrap();
    overflow(&mut secret);
    println!("last");
    std::io::stdout().flush().unwrap();
    drop(secret);
    println!("not reached");
}

#[test]
#[ignore]
fn wipes() {
    let arena = arena();
    let secret = arena.allocate_copying(b"abc", None).unwrap();
    let window = secret.read().unwrap();
    // SAFETY: nothing depends on the bytes of the window.
    unsafe { enclave::wipe_everything() }.unwrap();
    assert_eq!(window.close().unwrap_err().kind(), ErrorKind::Destroyed);
    assert_eq!(secret.read().unwrap_err().kind(), ErrorKind::Destroyed);
    println!("wiped");
}

#[test]
#[ignore]
fn forks() {
    extern "C" {
        fn fork() -> i32;
        fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }
    let arena = arena();
    let secret = arena.allocate_copying(b"abc", None).unwrap();
    let window = secret.read().unwrap();
    // SAFETY: the child makes few calls and exits.
    unsafe {
        let child = fork();
        if child == 0 {
            let kinds = [
                secret.read().map(drop).unwrap_err().kind(),
                arena.allocate(1, None).unwrap_err().kind(),
                window.close().unwrap_err().kind(),
            ];
            let own = super::arena().allocate_copying(b"own", None).unwrap();
            let fine = own.equals(b"own").unwrap();
            _exit(i32::from(kinds != [ErrorKind::InheritedByFork; 3] || !fine));
        }
        let mut status = -1;
        assert_eq!(waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
    }
    assert_eq!(&window[..], b"abc");
    println!("forked");
}

#[test]
#[ignore]
fn publishes() {
    let options = PublishOptions {
        name: Some("rust"),
        ..Default::default()
    };
    enclave::publish_start(&options).unwrap();
    let error = enclave::publish_start(&options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publishing);
    enclave::publish_refresh();
    enclave::publish_stop();
    let odd = PublishOptions {
        tick_milliseconds: 1,
        ..options.clone()
    };
    assert_eq!(
        enclave::publish_start(&odd).unwrap_err().kind(),
        ErrorKind::Argument
    );
    let hidden = PublishOptions {
        addresses: Addresses::Never,
        ..options
    };
    enclave::publish_start(&hidden).unwrap();
    println!("published");
}

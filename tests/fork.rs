//! Calls in a child of a process whose threads have worked: they end, and with the same bits.
#![cfg(unix)]

use std::time::{Duration, Instant};

use condensed_rope::cpu::{Heads, Rope, Threads};
use condensed_rope::{Frequencies, Layout, Pairing, Positions};

/// Enough for several threads: 1024 tokens of 32 heads of 128.
fn rotated(rope: &Rope) -> Vec<f32> {
    let mut q: Vec<f32> = (0..1024 * 32 * 128).map(|i| (i % 911) as f32 / 911.0).collect();
    let heads = Heads::in_place(&mut q, Layout::thd(1024, 32, 128));
    rope.rotate(Some(heads), None, Positions::consecutive(5)).expect("a valid call");
    q
}

/// The child's exit code, or none where it did not end in time.
fn in_a_child(run: impl FnOnce() -> bool) -> Option<i32> {
    // SAFETY: the child runs what is given, and leaves without running destructors or other threads' work.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a process can be forked");
    if child == 0 {
        let code = if run() { 0 } else { 1 };
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        let mut status = 0;
        // SAFETY: our child, and a place for its status.
        if unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == child {
            return Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: our child, which hangs.
    unsafe { libc::kill(child, libc::SIGKILL) };
    None
}

/// One test, since a fork copies no thread but its own.
#[test]
fn calls_in_a_forked_child_end() {
    let frequencies = Frequencies::new(128, 10_000.0).expect("valid");
    let plain = Rope::new(&frequencies, Pairing::HalfSplit);
    let expected = rotated(&plain);
    let pool = Threads::new(4).expect("four threads");
    for threads in [Threads::ambient(), pool, Threads::calling()] {
        let rope = plain.with_threads(threads.clone());
        assert_eq!(rotated(&rope), expected, "{threads:?}");
        let code = in_a_child(|| rotated(&rope) == expected);
        assert_eq!(code, Some(0), "{threads:?} made before the fork");
        // A rope of the child's own, and threads of its own.
        let code = in_a_child(|| {
            let rope = Rope::new(&frequencies, Pairing::HalfSplit);
            rotated(&rope.with_threads(threads.clone())) == expected
        });
        assert_eq!(code, Some(0), "{threads:?}, and a rope made in the child");
        let code = in_a_child(|| {
            let own = Threads::new(2).expect("two threads");
            let rope = Rope::new(&frequencies, Pairing::HalfSplit).with_threads(own);
            rotated(&rope) == expected
        });
        assert_eq!(code, Some(0), "threads made in the child");
        // What goes in the child is not what the parent waits for.
        drop(rope);
    }
    assert_eq!(rotated(&plain), expected);
}

//! A call allocates nothing between its checks and its launch: counted by the allocator.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;

use condensed_rope::kernel::{
    Device, Launch, Overlap, RawHeads, RawIds, SetShape, Spec, check_raw,
};
use condensed_rope::{Direction, Dtype, Layout, LongRope, Pairing, Positions, Scaled, Scaling};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, block: Block) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(call: impl FnOnce()) -> usize {
    let before = COUNT.get();
    call();
    COUNT.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn checks_and_launches_allocate_nothing() {
    let spec = Spec {
        steps: 1 << 20,
        sets: SetShape { rotary_dim: 128, count: 1, stride: 66 },
        pairing: Pairing::HalfSplit,
        direction: Direction::Forward,
        factor: 1.0,
        device: Device::H100,
        overlap: Overlap::None,
    };
    let strides = [0, 48 * 128, 128];
    let q = Layout::thd(7, 32, 128).with_strides(strides);
    let k = Layout::thd(7, 8, 128).with_strides(strides).at(32 * 128);
    let [q, k] = [q, k].map(|layout| RawHeads::in_place(Dtype::BF16, 1 << 30, layout));
    let ids = Positions::ids(RawIds { address: 1 << 25, len: 7, wide: true });
    let mut launch = None;
    let counted = allocations(|| {
        check_raw(&q, Some(&k), &ids, 128).expect("packed views are disjoint");
        launch = Launch::rotation(&spec, &q, Some(&k), &ids).expect("a valid call");
    });
    assert!(launch.is_some());
    assert_eq!(counted, 0);
}

#[test]
fn another_length_allocates_nothing() {
    let dynamic = Scaling::Dynamic { factor: 4.0, max_position_embeddings: 2048 };
    let longrope = Scaling::LongRope(LongRope {
        short_factor: vec![1.0; 64],
        long_factor: vec![4.0; 64],
        original_max_position_embeddings: 4096,
        attention_factor: 1.19,
    });
    for scaling in [dynamic, longrope] {
        let mut scaled = Scaled::new(128, 10_000.0, scaling).expect("valid");
        let mut changes = [false; 4];
        let counted = allocations(|| {
            changes = [5000, 5000, 9000, 100].map(|length| scaled.set_length(length));
        });
        assert_eq!(counted, 0);
        // Every longer length is another one to dynamic scaling, and all are one to LongRoPE.
        assert_eq!(
            changes,
            [true, false, matches!(scaled.scaling(), Scaling::Dynamic { .. }), true]
        );
    }
}

//! A call allocates nothing between its checks and its launch: counted by the allocator.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;

use condensed_rope::plan::{Call, DeviceProps, Pdl, Planner};
use condensed_rope::{
    Dtype, Dynamic, FrequencySchedule, IndexType, Layout, LongRope, Pairing, Positions, RawIds,
    RawOperand, RopeScaling, RopeSpec,
};

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
    let spec = RopeSpec::new(128, Pairing::HalfSplit).expect("valid");
    let (words, device, pdl) = (1 << 20, DeviceProps::H100, Pdl::Off);
    let planner = Planner { words, spec, device, pdl };
    let strides = [0, 48 * 128, 128];
    let q = Layout::thd(7, 32, 128).with_strides(strides);
    let k = Layout::thd(7, 8, 128).with_strides(strides).at(32 * 128);
    let [q, k] = [q, k].map(|layout| Some(RawOperand::in_place(Dtype::BF16, 1 << 30, layout)));
    let positions = Positions::ids(RawIds::new(IndexType::I64, 1 << 25, 7));
    let mut launch = None;
    let counted = allocations(|| {
        let call = Call { q, k, positions }.check(&spec).expect("packed views are disjoint");
        launch = planner.rotation(&call);
    });
    assert!(launch.is_some());
    assert_eq!(counted, 0);
}

#[test]
fn another_length_allocates_nothing() {
    let dynamic = RopeScaling::Dynamic(Dynamic::new(4.0, 2048));
    let longrope = RopeScaling::LongRope(LongRope::new(vec![1.0; 64], vec![4.0; 64], 4096));
    for scaling in [dynamic, longrope] {
        let mut schedule = FrequencySchedule::new(128, 10_000.0, scaling).expect("valid");
        let mut changes = [false; 4];
        let counted = allocations(|| {
            changes = [5000, 5000, 9000, 100].map(|length| schedule.set_length(length));
        });
        assert_eq!(counted, 0);
        // Every longer length is another one to dynamic scaling, and all are one to LongRoPE.
        assert_eq!(
            changes,
            [true, false, matches!(schedule.scaling(), RopeScaling::Dynamic(_)), true]
        );
    }
}

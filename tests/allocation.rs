//! A call allocates nothing between its checks and its launch: counted by the allocator.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;

use condensed_rope::plan::{Call, DeviceProps, Pdl, Planner};
use condensed_rope::{
    Append, Dtype, Dynamic, FrequencySchedule, IndexType, KvCache, KvLayout, Layout, LongRope,
    Pairing, Positions, QkNorm, Raw, RawBuffer, RawIds, RawMemory, RawOperand, RawTensor,
    RopeScaling, RopeSpec, Scale, SlotMapping, Stored,
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

/// Norm, rotation and append, packed, with everything that a call may have.
#[test]
fn checks_and_launches_of_appends_allocate_nothing() {
    let spec = RopeSpec::new(128, Pairing::HalfSplit).expect("valid");
    let (words, device, pdl) = (1 << 20, DeviceProps::H100, Pdl::Off);
    let planner = Planner { words, spec, device, pdl };
    let view =
        |heads, at: usize| Layout::thd(7, heads, 128).with_strides([0, 48 * 128, 128]).at(at * 128);
    let pages = KvLayout::nhd(100, 16, 8, 128);
    let mut launch = None;
    let counted = allocations(|| {
        let memory = |at| RawMemory::new(Stored::Fp8E4M3, RawBuffer::unbounded(at));
        let weights = || RawTensor::new(Dtype::BF16, RawBuffer::unbounded(1 << 21));
        let scale = || Scale::Tensor(RawTensor::new(Dtype::F32, RawBuffer::new(1 << 22, 8)));
        let cache = KvCache::new(memory(1 << 34), pages, memory(1 << 35), pages);
        let slots = SlotMapping::ids(RawIds::new(IndexType::I64, 1 << 24, 7));
        let qkv = RawMemory::new(Dtype::BF16, RawBuffer::unbounded(1 << 30));
        let call =
            Append::<Raw>::packed(qkv, Some(view(32, 0)), Some(view(8, 32)), Some(view(8, 40)));
        let call = call
            .with_norm(QkNorm::rms(1e-6).q(weights()).k(weights()))
            .with_cache(cache.with_scales(scale(), scale()), slots);
        let positions = Positions::ids(RawIds::new(IndexType::I64, 1 << 25, 7));
        launch = planner.append(&call.checked(&spec, positions).expect("a valid call"));
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

/// Programmatic dependent launch: whether a launch may start beside the kernel before it on its stream, on
/// devices of compute capability 9.0 and newer. Older ones ignore it.
///
/// Such a launch starts while the kernel before it is still finishing, and waits for it before it touches
/// anything that kernel could have written; the launch's own cost hides. In turn it lets the kernel
/// *after* it start early. So, whatever the choice:
///
/// - q, k, v and their sources, and caches, may be written by the kernel before: they are read after it has finished.
/// - The kernel after may read q and k as ever, unless it is launched with the attribute itself: then
///   it must wait (`griddepcontrol.wait`, `cudaGridDependencySynchronize`) before it does, as these
///   kernels do.
///
/// When to turn it on: behind a kernel that lets this one start early (`griddepcontrol.launch_dependents`,
/// `cudaTriggerProgrammaticLaunchCompletion`) in its last wave of blocks, as these kernels do. Such a
/// launch of one token took 1.1 us less behind a matrix-vector product that does, and of 512 to 2048
/// tokens 5 to 17 % less (H100). Leave it off behind a kernel that does not, as cuBLAS at decode, where it
/// costs 0.4 to 0.7 us; and behind one of several waves that lets it start in its first: the waiting
/// blocks hold the places that the later waves need.
///
/// Launches of more threads than the device gains by are launched plainly all the same: see
/// `src/plan/tiling.rs`. Results are the same in either case, bit for bit.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pdl {
    /// Starts when the kernel before has finished.
    #[default]
    Off = 0,
    /// Starts early. Positions, too, may be written by the kernel before.
    On = 1,
    /// Starts early, and works out sine and cosine before it waits. Positions (ids, starts,
    /// `cu_seqlens`, the choice of sets) must not be written by the kernel before, nor by one that it
    /// overlaps: where they are, old ones may be used, or a mixture. Any position is in bounds, so that
    /// is all that can happen. Of `rotate_append` the same holds for slots, page tables, weights and scales: a slot is held
    /// to its bounds as it is read, so no other memory is written.
    PositionsReady = 2,
}

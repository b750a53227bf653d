//! Who does the work, after a fork, too.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use crate::{Error, Result};

/// Channels worth handing to another thread.
const CHANNELS_PER_TASK: usize = 1 << 15;

/// The threads that a rope's large calls use; small ones stay on the calling thread.
///
/// A process that forks loses its threads: its child would wait for ever for a pool of its parent's. So calls
/// in a child stay on the calling thread, whichever threads were asked for before. (Not known is a pool of
/// rayon's that other code made before a fork, in a process where this crate had made no rope by then: name
/// [`Threads::calling`] or [`Threads::new`] in the child.)
#[derive(Clone, Default)]
pub struct Threads(Kind);

#[derive(Clone, Default)]
enum Kind {
    /// rayon's: of the pool that the caller is in, or the global one.
    #[default]
    Ambient,
    Calling,
    Pool(Arc<Pool>),
}

/// A pool, and the process that has its threads.
struct Pool {
    threads: ManuallyDrop<rayon::ThreadPool>,
    process: u32,
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Elsewhere there are no threads to end, and locks may be held that nobody will let go.
        if self.process == std::process::id() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.threads) };
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Ambient => f.write_str("Threads::ambient()"),
            Kind::Calling => f.write_str("Threads::calling()"),
            Kind::Pool(pool) => write!(f, "Threads::new({})", pool.threads.current_num_threads()),
        }
    }
}

/// The process in which this crate first made a rope.
static FIRST_PROCESS: AtomicU32 = AtomicU32::new(0);

/// Notes the process that rayon's threads belong to, if any: called when a rope is made.
pub(super) fn note_process() {
    let _ =
        FIRST_PROCESS.compare_exchange(0, std::process::id(), Ordering::Relaxed, Ordering::Relaxed);
}

impl Threads {
    /// rayon's: those of the pool that the caller is in, or of the global one. Every rope's at first.
    pub fn ambient() -> Self {
        Self(Kind::Ambient)
    }

    /// None but the calling thread.
    pub fn calling() -> Self {
        Self(Kind::Calling)
    }

    /// A pool of `count` threads of its own, 0 for as many as there are cores. Ropes may share it: it is
    /// cheap to clone.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the system refuses so many.
    pub fn new(count: usize) -> Result<Self> {
        let refused = |_| Error::TooLarge {
            tensor: "threads",
            what: "their number",
            limit: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().map_err(refused)?;
        let (threads, process) = (ManuallyDrop::new(pool), std::process::id());
        Ok(Self(Kind::Pool(Arc::new(Pool { threads, process }))))
    }

    /// Calls `task(first, last)` over ranges of `items`, on several threads where there is enough to do.
    pub(super) fn for_each_range(
        &self,
        items: usize,
        channels_per_item: usize,
        task: impl Fn(usize, usize) + Sync + Send,
    ) {
        let per_task = (CHANNELS_PER_TASK / channels_per_item.max(1)).max(1);
        let here = |process: u32| process == std::process::id();
        let ranges = || {
            (0..items.div_ceil(per_task)).into_par_iter().for_each(|i| {
                task(i * per_task, ((i + 1) * per_task).min(items));
            });
        };
        match &self.0 {
            _ if items <= per_task => task(0, items),
            Kind::Ambient if here(FIRST_PROCESS.load(Ordering::Relaxed)) => ranges(),
            Kind::Pool(pool) if here(pool.process) => pool.threads.install(ranges),
            Kind::Ambient | Kind::Pool(_) | Kind::Calling => task(0, items),
        }
    }
}

//! Runs independent pieces of work on several threads and hands their results over in the order of the pieces, as one thread would have
//! done: so that what is printed does not depend on who was faster. Each simulation runs in one thread; what it does depends on
//! its seed only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// How many threads when nobody says: one per core.
pub fn threads_by_default() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does all pieces; `take` says whether to go on. Pieces begun after a refusal are dropped.
pub fn run<Piece: Sync, Done: Send>(
    threads: usize,
    pieces: &[Piece],
    work: impl Fn(&Piece) -> Done + Sync,
    mut take: impl FnMut(&Piece, Done) -> bool,
) {
    let (next, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, pieces.len().max(1)) {
            let (sender, next, enough, work) = (sender.clone(), &next, &enough, &work);
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(index) else { return };
                    if sender.send((index, work(piece))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut due) = (BTreeMap::new(), 0);
        for (index, done) in receiver {
            early.insert(index, done);
            while let Some(done) = early.remove(&due) {
                if !enough.load(Ordering::Relaxed) && !take(&pieces[due], done) {
                    enough.store(true, Ordering::Relaxed);
                }
                due += 1;
            }
        }
    });
}

/// Seconds of all cores that this process has used so far.
pub fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold spaces: the state, then user and system time as the twelfth and thirteenth number.
    let numbers = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut numbers = numbers.split_whitespace().skip(11).map(|text| text.parse().unwrap_or(0.0));
    let (user, system) = (numbers.next().unwrap_or(0.0), numbers.next().unwrap_or(0.0));
    (user + system) / TICKS_PER_SECOND
}

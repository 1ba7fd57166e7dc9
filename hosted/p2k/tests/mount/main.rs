//! Images mounted by the program itself, and used by programs of Linux. Where nothing can be mounted, all of this says so and tries
//! nothing.
//!
//! - `behaviour`: what files do; `requests`: what Linux has to ask for, and how often; `at_once`: many programs, on a disk that
//!   answers when it is told to; `life`: from the mount to the end, however that comes;
//! - `suites`: what others wrote to find faults; `doc_tree`: a real tree.

mod at_once;
mod behaviour;
mod doc_tree;
mod life;
mod mounted;
mod requests;
mod slow_disk;
mod suites;

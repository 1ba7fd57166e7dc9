//! The atomics that the locks are made of, named in one place so that a model checker can put its
//! own in their stead.

pub(crate) use core::sync::atomic::{AtomicU32, Ordering};

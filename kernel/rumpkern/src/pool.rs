//! Pools of objects that are costly to set up (pool_cache(9)): given back, they are kept ready, up to a
//! bound, and the pagedaemon can take them.
//!
//! Plain objects need no pool: kmem's slabs are one.

use crate::kmem;
use crate::locks::{LockClass, Mutex};
use crate::uvm::{self, Drain};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use rumpuser::{Errno, PAGE_SIZE};

static POOL_CLASS: LockClass = LockClass {
    name: "pool",
    rank: 930,
};

/// A pool of boxed objects.
pub struct Pool<T: Send + 'static> {
    idle: Mutex<Vec<Box<T>>>,
    most_idle: usize,
    make: fn() -> Result<T, Errno>,
}

impl<T: Send + 'static> Pool<T> {
    /// A pool that keeps at most `most_idle` objects; `make` sets up a new one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(
        name: &'static str,
        most_idle: usize,
        make: fn() -> Result<T, Errno>,
    ) -> Result<Arc<Pool<T>>, Errno> {
        let pool = kmem::try_arc(Pool {
            idle: Mutex::with_class(kmem::try_vec(most_idle)?, &POOL_CLASS),
            most_idle,
            make,
        })?;
        let drain: Weak<Pool<T>> = Arc::downgrade(&pool);
        uvm::register_drain(name, 10, drain)?;
        Ok(pool)
    }

    /// An object: an idle one, or a new one.
    ///
    /// # Errors
    /// `ENOMEM`, or what setting it up answered.
    pub fn get(&self) -> Result<Box<T>, Errno> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(object) => Ok(object),
            None => kmem::try_box((self.make)()?),
        }
    }

    /// Puts an object back, in a state in which the next may have it.
    pub fn put(&self, object: Box<T>) {
        let mut idle = self.idle.lock();
        if idle.len() < self.most_idle {
            idle.push(object);
            return;
        }
        drop(idle);
        drop(object);
    }

    /// How many are idle.
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }
}

impl<T: Send + 'static> Drain for Pool<T> {
    fn drain(&self, want: usize) -> usize {
        let mut bytes = 0;
        while bytes < want * PAGE_SIZE {
            let Some(object) = self.idle.try_lock().and_then(|mut idle| idle.pop()) else {
                break;
            };
            bytes += size_of::<T>();
            drop(object);
        }
        bytes.div_ceil(PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::install_host;

    fn page() -> Result<[u8; PAGE_SIZE], Errno> {
        Ok([1; PAGE_SIZE])
    }

    #[test]
    fn an_object_that_was_put_back_is_had_again_up_to_the_bound() {
        install_host();
        let pool = Pool::new("test", 2, page).expect("memory");
        let mut objects: Vec<_> = (0..3).map(|_| pool.get().expect("memory")).collect();
        objects[2][0] = 7;
        for object in objects.into_iter().rev() {
            pool.put(object);
        }
        assert_eq!(pool.idle(), 2);
        let mut marks: Vec<u8> = (0..3).map(|_| pool.get().expect("memory")[0]).collect();
        marks.sort_unstable();
        assert_eq!(marks, [1, 1, 7]);
    }

    #[test]
    fn a_drain_takes_as_many_as_are_wanted_and_not_what_is_in_use() {
        install_host();
        let pool = Pool::new("test", 8, page).expect("memory");
        let objects: Vec<_> = (0..5).map(|_| pool.get().expect("memory")).collect();
        assert_eq!(pool.drain(10), 0);
        for object in objects {
            pool.put(object);
        }
        assert_eq!(pool.drain(2), 2);
        assert_eq!(pool.idle(), 3);
        assert_eq!(pool.drain(10), 3);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn what_setting_up_refuses_the_pool_refuses() {
        install_host();
        let pool: Arc<Pool<u64>> = Pool::new("test", 1, || Err(Errno::ENXIO)).expect("memory");
        assert_eq!(pool.get().err(), Some(Errno::ENXIO));
    }
}

//! A value that is set once (RUN_ONCE of once(9)).

use super::Mutex;
use core::fmt;

/// A cell that is written at most once and read without a lock from then on.
pub struct OnceLock<T> {
    value: spin::Once<T>,
    /// Serialises those that compute the value; they may park.
    filling: Mutex<()>,
}

impl<T> OnceLock<T> {
    /// Empty.
    pub const fn new() -> OnceLock<T> {
        OnceLock {
            value: spin::Once::new(),
            filling: Mutex::new(()),
        }
    }

    /// The value, if it has been set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Sets the value.
    ///
    /// # Errors
    /// Gives `value` back if there is one already.
    pub fn set(&self, value: T) -> Result<(), T> {
        let _filling = self.filling.lock();
        if self.value.is_completed() {
            return Err(value);
        }
        self.value.call_once(|| value);
        Ok(())
    }

    /// The value; computed by `init` if this is the first call. Others wait meanwhile.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.value.get() {
            return value;
        }
        let _filling = self.filling.lock();
        if let Some(value) = self.value.get() {
            return value;
        }
        let value = init();
        self.value.call_once(|| value)
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> OnceLock<T> {
        OnceLock::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceLock").field(&self.get()).finish()
    }
}

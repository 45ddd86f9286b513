//! The locks, atomics and threads of the engine.
//!
//! Everything through which threads share state comes from here, except counters on which nothing depends. A normal
//! build has `parking_lot`'s locks and the standard library's atomics and threads. With the feature `shuttle` they are
//! shuttle's, which runs all threads of a test in one, switches between them at every lock, atomic and wait, and
//! chooses by a seed which one continues: `tests/interleavings.rs` runs the engine under it.
//!
//! What shuttle cannot show: the orderings weaker than sequential consistency (it treats all as `SeqCst`), and races of
//! plain memory, which safe Rust excludes. Time does not pass in it: a wait with a time limit either times out at once
//! or never, as the seed decides.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
}

#[cfg(feature = "shuttle")]
mod shuttled {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::rand::Rng as _;
    pub(crate) use shuttle::sync::atomic;
    use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use shuttle::thread;

    /// A lock with the interface of `parking_lot`'s.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }
    }

    /// A locked [`Mutex`]. Holds `None` only while a [`Condvar`] waits with the guard.
    pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    const HELD: &str = "held but for the time of a wait, which has the guard to itself";

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect(HELD)
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect(HELD)
        }
    }

    /// A condition variable with the interface of `parking_lot`'s.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().expect(HELD);
            let inner = self.0.wait(inner);
            guard.0 = Some(inner.unwrap_or_else(PoisonError::into_inner));
        }

        /// One wait in four ends at once, as if its time had passed. The others never time out, so that a missing
        /// wake-up is found even where a time-out would hide it.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
            if !shuttle::rand::thread_rng().gen_bool(0.25) {
                self.wait(guard);
            }
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// A lock with the interface of `parking_lot`'s.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(not(feature = "shuttle"))]
pub(crate) use real::*;
#[cfg(feature = "shuttle")]
pub(crate) use shuttled::*;

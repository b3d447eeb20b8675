//! The atomics of the protocols that loom checks: the standard library's, or loom's in its models.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use model::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
mod model {
    //! loom takes a sequentially consistent access for an acquire or release, but knows fences. A
    //! fence before each such load and read-modify-write gives back what the order between two
    //! words rests on: a store, and a load of another word after it.

    pub use std::sync::atomic::Ordering;

    pub use loom::sync::atomic::fence;

    fn settle(order: Ordering) {
        if order == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            /// loom's atomic, with fences for sequential consistency.
            #[derive(Debug, Default)]
            pub struct $name(loom::sync::atomic::$name);

            #[allow(
                missing_docs,
                clippy::missing_errors_doc,
                reason = "as the standard library's"
            )]
            impl $name {
                pub fn new(value: $value) -> $name {
                    $name(loom::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    settle(order);
                    self.0.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, order);
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    settle(order);
                    self.0.swap(value, order)
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    settle(success);
                    self.0.compare_exchange(current, new, success, failure)
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    settle(order);
                    self.0.fetch_add(value, order)
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    settle(order);
                    self.0.fetch_sub(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    settle(order);
                    self.0.fetch_and(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    settle(order);
                    self.0.fetch_or(value, order)
                }

                /// The latest value, as the kernel sees it: after a full barrier, but changing and
                /// releasing nothing. loom lets an exchange alone see it, so this one is to fail.
                pub fn latest(&self) -> $value {
                    fence(Ordering::SeqCst);
                    let never = <$value>::MAX / 3;
                    self.0
                        .compare_exchange(never, never, Ordering::Relaxed, Ordering::Relaxed)
                        .unwrap_or_else(|latest| latest)
                }

                pub fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    change: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    settle(success);
                    self.0.fetch_update(success, failure, change)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

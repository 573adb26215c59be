//! What follows the store over failures: the mirror, the lease keeper, and the etcd client when its server goes away.

mod clock;
mod etcd;
mod faulty;
mod lease;
mod mirror;

//! FeatureKV's metadata: what etcd (or the embedded store) holds and every legal way to change it.
//!
//! ```text
//!   key     every key            record  every value           state  what may follow what, pure
//!   txn     the transactions: compares + writes, built from records as read
//!   store   the trait            embedded, etcd  its two implementations       suite  their contract
//! ```

pub mod key;
pub mod record;
pub mod store;

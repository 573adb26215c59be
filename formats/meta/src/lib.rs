//! FeatureKV's metadata: what etcd (or the embedded store) holds and every legal way to change it.
//!
//! ```text
//!   key     every key            record  every value           state  what may follow what, pure
//!   txn     the transactions: compares + writes, built from records as read
//!   view    all records of a module at one revision            mirror keeps one by watching
//!   meta    typed reads          lease   keeps a lease alive   open   a store by URL
//!   store   the trait            embedded, etcd  its two implementations       suite  their contract
//! ```
//!
//! A change goes one way: read records (`Meta`, `View`), plan ([`txn`] asks [`state`] and adds the compares), run
//! the plan. A plan made from records that have changed since is refused by its compares: read again, plan again.

pub mod embedded;
pub mod etcd;
pub mod key;
pub mod lease;
mod meta;
pub mod mirror;
mod open;
pub mod record;
mod refusal;
mod stamped;
pub mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod suite;
#[cfg(feature = "testing")]
pub mod testing;
pub mod txn;
mod view;

pub use meta::{Change, ChangeError, Meta};
pub use open::{OpenError, open};
pub use refusal::{Refusal, RefusalKind};
pub use stamped::{Planned, Stamped};
pub use view::{Unreadable, View};

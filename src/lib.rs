//! jindou: a clustered instant-messaging router.
pub mod ids;
pub mod limits;
pub mod time;
pub mod format;
pub mod engine;

//! A group among others.

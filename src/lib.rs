//! jindou routes instant messages; what follows is its architecture page, so that its links are compiled.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod ids;
pub mod limits;
pub mod time;

pub mod config;

pub mod format;

pub mod engine;

pub mod shell;

pub mod chat;

pub mod operator;

pub mod profile;

//! The commands beside `serve`, one file each.

pub mod dead;
pub mod doctor;
pub mod stand_in;
pub mod stock;
pub mod topics;

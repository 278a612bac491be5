//! The scheduled faults.

use crate::{World, WorldError};

/// What lies on the world at the moment.
#[derive(Default)]
pub(crate) struct Weather {}

impl World {
    pub(crate) fn change_weather(&mut self) -> Result<(), WorldError> {
        Ok(())
    }
}

//! Frames: `length: u32 | number: u64 | postcard`, little-endian; and the line on which they wait for their latency.
//!
//! The latency is ours, keyed by what a frame says, and counted in ticks because a turmoil host cannot hear anything
//! between two ticks. Frames of one connection never overtake each other, as on TCP.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until};

use crate::storm::{Chance, Fate};

const HEADER: usize = 12;

/// Makes room in `buffer` for what one read brings. A buffer that is full would take 64 bytes at a time, and every
/// longer message would cross in pieces, each with a latency of its own.
pub(crate) fn with_room(buffer: &mut BytesMut) -> &mut BytesMut {
    /// Most messages are shorter.
    const LEAST: usize = 1_024;
    const BLOCK: usize = 8 * LEAST;
    if buffer.capacity() - buffer.len() < LEAST {
        buffer.reserve(BLOCK);
    }
    buffer
}

/// A value in its frame's payload.
///
/// # Panics
/// If the type cannot be serialised at all (an unsized sequence): a mistake in a machine's protocol, not an event.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "protocol types are plain data; one that cannot be encoded is a bug"
    )]
    postcard::to_stdvec(value).expect("a protocol type that postcard can encode")
}

/// The value in a payload; `None` if it is not one.
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    postcard::from_bytes(payload).ok()
}

/// Splits a stream of bytes into frames.
#[derive(Default)]
pub(crate) struct Frames {
    pub(crate) buffer: BytesMut,
}

impl Frames {
    /// The next whole frame: its number and payload.
    pub(crate) fn next(&mut self) -> Option<(u64, Bytes)> {
        let mut header = self.buffer.get(..HEADER)?;
        let length = header.get_u32_le() as usize;
        let number = header.get_u64_le();
        if self.buffer.len() < HEADER + length {
            return None;
        }
        self.buffer.advance(HEADER);
        Some((number, self.buffer.split_to(length).freeze()))
    }
}

/// Waits until then; for ever if it is never.
pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Frames on their way out of a host, each with the moment at which it may leave.
pub(crate) struct DelayLine {
    fate: Fate,
    site: &'static str,
    queue: VecDeque<(Instant, Vec<u8>)>,
}

impl DelayLine {
    pub(crate) fn new(fate: &Fate, site: &'static str) -> Self {
        Self { fate: fate.clone(), site, queue: VecDeque::new() }
    }

    /// Puts a frame on the line.
    pub(crate) fn push(&mut self, number: u64, payload: &[u8]) {
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&number.to_le_bytes());
        frame.extend_from_slice(payload);
        self.push_raw(payload, frame);
    }

    /// Puts bytes on the line as they are; `content` is what their latency is keyed by.
    pub(crate) fn push_raw(&mut self, content: &[u8], bytes: Vec<u8>) {
        let ready = Instant::now() + self.latency(content);
        let after_the_one_before = self.queue.back().map_or(ready, |(before, _)| ready.max(*before));
        self.queue.push_back((after_the_one_before, bytes));
    }

    /// Everything that may leave now, as one segment.
    pub(crate) fn ready(&mut self) -> Option<Vec<u8>> {
        let due = self.due()?;
        let now = Instant::now();
        if due > now {
            return None;
        }
        let mut segment = self.pop(now)?;
        while let Some(more) = self.pop(now) {
            segment.extend_from_slice(&more);
        }
        Some(segment)
    }

    /// When the next frame may leave.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.queue.pop_front_if(|(due, _)| *due <= now).map(|(_, bytes)| bytes)
    }

    /// Most frames leave in the tick they were written in, some in the next, a few in the one after that.
    fn latency(&self, content: &[u8]) -> Duration {
        /// The share of frames that leave at once, and with at most one tick of delay.
        const AT_ONCE: f64 = 0.7;
        const WITHIN_ONE: f64 = 0.93;
        /// A late message (F10) comes this many ticks later, at least and at most.
        const LATE: (f64, f64) = (5.0, 60.0);

        let question = self.fate.ask(self.site, content);
        let draw = self.fate.unit(question, "latency");
        let mut ticks = u32::from(draw >= AT_ONCE) + u32::from(draw >= WITHIN_ONE);
        if self.fate.strikes(question, Chance::Late) {
            self.fate.struck(question, Chance::Late);
            // A square makes long delays rarer than short ones.
            let stretch = self.fate.unit(question, "stretch").powi(2);
            ticks += (LATE.0 + stretch * (LATE.1 - LATE.0)) as u32;
        }
        self.fate.storm.time.tick() * ticks
    }
}

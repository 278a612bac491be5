//! The tests that need more than one crate: tidy, adapters against contracts, workers against clusters, and what
//! runs in containers. There is nothing in the library; each file of `tests/` is a suite.

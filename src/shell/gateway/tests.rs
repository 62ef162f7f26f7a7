//! The gateway against real sockets on loopback: bytes in, events out, effects back as bytes.

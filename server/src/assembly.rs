//! A message that comes in fragments.

use bytes::BytesMut;
use bytestring::ByteString;

use crate::{protocol::Goodbye, socket::Data};

/// Fragments so far. Their size and number are the scanner's business.
pub struct Assembly {
    text: bool,
    bytes: BytesMut,
    /// How far the text is known to be UTF-8.
    valid: usize,
}

impl Assembly {
    pub fn new(text: bool) -> Self {
        Self {
            text,
            bytes: BytesMut::new(),
            valid: 0,
        }
    }

    /// Refuses a text as soon as it can no longer become UTF-8; a character may still be cut in
    /// two between fragments.
    pub fn push(&mut self, bytes: &[u8], last: bool) -> Result<(), Goodbye> {
        self.bytes.extend_from_slice(bytes);
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(_) => {
                self.valid = self.bytes.len();
                Ok(())
            }
            Err(error) if error.error_len().is_none() && !last => {
                self.valid += error.valid_up_to();
                Ok(())
            }
            Err(_) => Err(Goodbye::InvalidText),
        }
    }

    pub fn finish(self) -> Data {
        let bytes = self.bytes.freeze();
        if self.text {
            Data::Text(ByteString::try_from(bytes).expect("checked fragment by fragment"))
        } else {
            Data::Binary(bytes)
        }
    }
}

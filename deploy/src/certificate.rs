//! The front door's certificate, as PEM files have it.

use std::{fs, path::Path};

use chrono::{DateTime, NaiveDateTime, Utc};
use rustls::{
    InconsistentKeys,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// What Traefik calls the certificate that it makes up when it has no better one.
const MADE_UP: &[u8] = b"TRAEFIK DEFAULT CERT";

/// A certificate and its key that belong together.
pub struct Certificate {
    pem: Vec<u8>,
    leaf: CertificateDer<'static>,
}

impl Certificate {
    /// # Errors
    /// In plain words: one is no PEM file of its kind, or they do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, String> {
        let pem = [read(chain)?, read(key)?].join(&b'\n');
        let certificates = chain_in(&pem).ok_or_else(|| no_certificate(chain))?;
        let leaf = certificates[0].clone();
        let key_in = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key(key))?;
        match CertifiedKey::from_der(certificates, key_in, &default_provider()) {
            Ok(_) => Ok(Self { pem, leaf }),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(format!("{key:?} is not the key of {chain:?}"))
            }
            Err(error) => Err(format!("{chain:?} with {key:?} is of no use: {error}")),
        }
    }

    /// Both in one file, which Traefik takes for either: so one rename replaces both.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    pub fn ends(&self) -> Option<DateTime<Utc>> {
        ends(&self.leaf)
    }
}

/// # Errors
/// In plain words: it is no PEM file with a certificate.
pub fn leaf(path: &Path) -> Result<CertificateDer<'static>, String> {
    let chain = chain_in(&read(path)?).ok_or_else(|| no_certificate(path))?;
    Ok(chain[0].clone())
}

/// # Errors
/// In plain words: it is no PEM file with a private key.
pub fn check_key(path: &Path) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map(drop).map_err(|_| no_key(path))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path:?}: {error}"))
}

fn chain_in(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty())
}

fn no_certificate(path: &Path) -> String {
    format!("{path:?} has no certificate in PEM")
}

fn no_key(path: &Path) -> String {
    format!("{path:?} has no private key in PEM, or only an encrypted one")
}

/// Whether it is the one that Traefik serves for want of another.
pub fn is_made_up(certificate: &[u8]) -> bool {
    let mut places = certificate.windows(MADE_UP.len());
    places.any(|place| place == MADE_UP)
}

/// When a certificate ends (RFC 5280, section 4.1), if it can be read so far.
pub fn ends(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let certificate = Element::first(certificate)?;
    let signed = Element::first(certificate.contents)?;
    let mut field = Element::first(signed.contents)?;
    if field.tag == VERSION {
        field = Element::first(field.after)?;
    }
    // The serial number, the algorithm and the issuer come before the validity.
    for _ in 0..3 {
        field = Element::first(field.after)?;
    }
    let begins = Element::first(field.contents)?;
    time(&Element::first(begins.after)?)
}

/// The version, which the oldest certificates leave out.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A time with two digits for the year means the years from 1950 on (RFC 5280, section 4.1.2.5.1).
fn time(element: &Element) -> Option<DateTime<Utc>> {
    let digits = std::str::from_utf8(element.contents).ok()?;
    let century = match element.tag {
        GENERALIZED_TIME => "",
        UTC_TIME if digits < "50" => "20",
        UTC_TIME => "19",
        _ => return None,
    };
    let time = format!("{century}{digits}");
    let time = NaiveDateTime::parse_from_str(&time, "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc())
}

/// One element of DER.
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    after: &'a [u8],
}

impl<'a> Element<'a> {
    fn first(der: &'a [u8]) -> Option<Self> {
        let (&[tag, short], rest) = der.split_first_chunk()?;
        let (length, rest) = match short {
            0..=0x7f => (usize::from(short), rest),
            // So many bytes of length come first; no certificate needs more than four.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
                let length = |sum, byte: &u8| sum << 8 | usize::from(*byte);
                (bytes.iter().fold(0, length), rest)
            }
            _ => return None,
        };
        let (contents, after) = rest.split_at_checked(length)?;
        Some(Self {
            tag,
            contents,
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Writes a self-signed certificate that ends with a year, and its key.
    fn make(folder: &Path, name: &str, year: i32) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["door.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.self_signed(&key).unwrap();
        let paths = ["crt", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
        fs::write(&paths[0], certificate.pem()).unwrap();
        fs::write(&paths[1], key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn what_belongs_together_is_taken_as_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let [chain, key] = make(folder.path(), "a", 2040);
        let both = Certificate::read(&chain, &key).unwrap();
        let one = folder.path().join("both");
        fs::write(&one, both.pem()).unwrap();
        assert_eq!(leaf(&one), leaf(&chain));
        Certificate::read(&one, &one).unwrap();
    }

    #[test]
    fn what_does_not_belong_together_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [chain, key] = make(folder.path(), "a", 2040);
        let [_, other] = make(folder.path(), "b", 2040);
        let told = |chain, key| Certificate::read(chain, key).err().unwrap();
        assert!(told(&chain, &other).contains("is not the key of"));
        assert!(told(&key, &key).contains("has no certificate"));
        assert!(told(&chain, &chain).contains("has no private key"));
        let missing = folder.path().join("missing");
        assert!(told(&missing, &key).contains("No such file"));
    }

    #[test]
    fn the_end_of_a_certificate_is_read_with_either_kind_of_year() {
        let folder = tempfile::tempdir().unwrap();
        for year in [1999, 2026, 2049, 2050, 2999] {
            let [chain, key] = make(folder.path(), "a", year);
            let ends = Certificate::read(&chain, &key).unwrap().ends().unwrap();
            assert_eq!(ends.to_rfc3339(), format!("{year}-12-31T00:00:00+00:00"));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let [chain, _] = make(folder.path(), "a", 2040);
        let whole = leaf(&chain).unwrap();
        for length in 0..whole.len() {
            assert_eq!(ends(&whole[..length]), None);
        }
    }
}

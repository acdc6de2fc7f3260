//! Where a server is spoken to: an address, and under TLS the certificate that it must show.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    certificate,
    door::Tls,
    engine::Engine,
    error::{self, Error},
};

const TIMEOUT: Duration = Duration::from_secs(3);

/// A connection, under TLS or not.
pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

type Secured = StreamOwned<ClientConnection, TcpStream>;

pub struct Entrance {
    address: String,
    trust: Option<Trust>,
}

/// The certificate that must be shown.
enum Trust {
    /// This one, whatever name is asked for.
    Exactly(CertificateDer<'static>),
    /// An authority's for this name, and not Traefik's own.
    Issued(String),
    /// Whatever there is.
    Any,
}

impl Entrance {
    pub fn plain(address: String) -> Self {
        Self {
            address,
            trust: None,
        }
    }

    /// # Errors
    /// It cannot be found, or there is no certificate where `up` and flips put it.
    pub fn front_door(engine: &dyn Engine) -> error::Result<Self> {
        let stack = engine.stack();
        let trust = match &stack.door.tls {
            None => None,
            Some(Tls::Files(_)) => {
                let leaf = certificate::leaf(&stack.certificate());
                let cure =
                    |reason| Error::Certificate(format!("{reason}; ./just up puts it there"));
                Some(Trust::Exactly(leaf.map_err(cure)?))
            }
            Some(Tls::Acme(acme)) => Some(Trust::Issued(acme.domains[0].clone())),
        };
        Ok(Self {
            address: engine.front_door()?,
            trust,
        })
    }

    /// Before the switch: a new certificate may have been handed over, which Traefik reads with it.
    ///
    /// # Errors
    /// It cannot be found.
    pub fn front_door_for_now(engine: &dyn Engine) -> error::Result<Self> {
        Ok(Self {
            address: engine.front_door()?,
            trust: engine.stack().door.tls.as_ref().map(|_| Trust::Any),
        })
    }

    /// With a scheme such as `http`, which gets its `s` where that is due.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let secure = if self.trust.is_some() { "s" } else { "" };
        format!("{scheme}{secure}://{}{path}", self.address)
    }

    /// Connects, and makes sure of the certificate.
    ///
    /// # Errors
    /// In plain words.
    pub fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match &self.trust {
            None => Ok(Box::new(self.open()?)),
            Some(trust) => Ok(Box::new(self.connect_securely(trust)?)),
        }
    }

    /// The certificate that is shown there; none without TLS.
    ///
    /// # Errors
    /// It is not the one that must be shown.
    pub fn certificate(&self) -> error::Result<Option<CertificateDer<'static>>> {
        let Some(trust) = &self.trust else {
            return Ok(None);
        };
        let shown = self.connect_securely(trust).and_then(|stream| {
            let leaf = shown(&stream)?;
            Ok(leaf.clone().into_owned())
        });
        shown.map(Some).map_err(Error::Certificate)
    }

    fn connect_securely(&self, trust: &Trust) -> Result<Secured, String> {
        let stream = self.shake_hands(trust)?;
        trust.check(shown(&stream)?)?;
        Ok(stream)
    }

    fn open(&self) -> Result<TcpStream, String> {
        let connect = || {
            let address: SocketAddr = self.address.parse().map_err(std::io::Error::other)?;
            let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        connect().map_err(|error: std::io::Error| error.to_string())
    }

    fn shake_hands(&self, trust: &Trust) -> Result<Secured, String> {
        let mut stream = self.open()?;
        let shake = || {
            let name = trust.name(&stream)?;
            let mut connection = ClientConnection::new(Arc::new(client()?), name)?;
            connection.complete_io(&mut stream)?;
            Ok(StreamOwned::new(connection, stream))
        };
        shake().map_err(|error: Box<dyn std::error::Error>| {
            format!(
                "the TLS handshake failed ({error}); Traefik ends them all where it cannot use its \
                 certificate, and ./just logs says why"
            )
        })
    }
}

fn shown(stream: &Secured) -> Result<&CertificateDer<'static>, String> {
    let chain = stream.conn.peer_certificates().unwrap_or_default();
    chain
        .first()
        .ok_or_else(|| "it shows no certificate".to_owned())
}

impl Trust {
    /// What to ask for. A certificate from a file is shown whatever that is.
    fn name(&self, stream: &TcpStream) -> Result<ServerName<'static>, Box<dyn std::error::Error>> {
        Ok(match self {
            Self::Exactly(_) | Self::Any => ServerName::IpAddress(stream.peer_addr()?.ip().into()),
            Self::Issued(domain) => ServerName::try_from(domain.clone())?,
        })
    }

    /// While Traefik has no certificate for a name it makes one up, and says so nowhere but in its
    /// log.
    fn check(&self, shown: &CertificateDer) -> Result<(), String> {
        match self {
            Self::Exactly(meant) if meant == shown => Ok(()),
            Self::Exactly(_) => Err(
                "Traefik shows another certificate than it was given; ./just up gives it once more"
                    .to_owned(),
            ),
            Self::Issued(domain) if certificate::is_made_up(shown) => Err(format!(
                "Traefik has got no certificate for {domain} yet: ./just logs says why; \
                 ./just down and ./just up ask for one again"
            )),
            Self::Issued(_) | Self::Any => Ok(()),
        }
    }
}

fn client() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(config)
}

/// Believes every certificate, from whoever has its key. Which one it must be is looked at after
/// the handshake, where it can be told in plain words.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

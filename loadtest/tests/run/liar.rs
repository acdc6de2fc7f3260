//! A server that speaks the protocol and tells one lie.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Several fall into a run of two seconds.
pub const BEAT: Duration = Duration::from_millis(250);

/// The lie is told at this count, or in this beat: well after the begin, well before the end.
const COUNT: u64 = 3;
const BEATS: u64 = 6;

const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    /// A number is left out.
    Count,
    /// A message is never answered.
    Silence,
    /// One socket does not get one beat.
    Beat,
    /// One socket gets another time.
    BeatTime,
    /// There are no beats at all.
    NoBeats,
    /// One more than there were.
    Total,
    NoBye,
    NoClose,
    CloseCode,
    /// A text that is no JSON.
    Text,
    /// A frame with a mask.
    Mask,
}

type Peers = Arc<Mutex<Vec<TcpStream>>>;

pub struct Liar {
    pub address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Liar {
    pub fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peers = Peers::default();
        let over = Arc::new(AtomicBool::new(false));
        let (known, ends) = (peers.clone(), over.clone());
        thread::spawn(move || beat(lie, &known, &ends));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let peers = peers.clone();
                thread::spawn(move || serve(stream, lie, &peers));
            }
        });
        Self { address, over }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn beat(lie: Lie, peers: &Peers, over: &AtomicBool) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) && lie != Lie::NoBeats {
        thread::sleep(BEAT);
        let peers = peers.lock().unwrap();
        // Counted from the first peer on, however long the client takes to start.
        number += u64::from(!peers.is_empty());
        for (place, mut peer) in peers.iter().enumerate() {
            let lies = place == 0 && number == BEATS;
            if lies && lie == Lie::Beat {
                continue;
            }
            let late = u64::from(lies && lie == Lie::BeatTime);
            let _ = peer.write_all(&text(&format!("{{\"ts\":\"{number}.{late}\"}}")));
        }
    }
}

/// A connection until its end, of whatever kind.
fn serve(stream: TcpStream, lie: Lie, peers: &Peers) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader
            .read_line(&mut head)
            .ok()
            .filter(|length| *length > 0)?;
    }
    let mut writer = stream;
    writer.write_all(HEAD.as_bytes()).ok()?;
    peers.lock().unwrap().push(writer.try_clone().ok()?);
    let mut count = 0;
    loop {
        let (opcode, payload) = read_frame(&mut reader)?;
        match opcode {
            0x1 => {
                count += 1;
                writer.write_all(&answer(lie, count)).ok()?;
            }
            0x8 => {
                writer.write_all(&goodbye(lie, count, &payload)).ok()?;
                return writer.shutdown(std::net::Shutdown::Both).ok();
            }
            _ => {}
        }
    }
}

fn answer(lie: Lie, count: u64) -> Vec<u8> {
    let truth = text(&format!("{{\"count\":{count}}}"));
    match lie {
        Lie::Count if count == COUNT => text(&format!("{{\"count\":{}}}", count + 1)),
        Lie::Silence if count >= COUNT => Vec::new(),
        Lie::Text if count == COUNT => [text("three"), truth].concat(),
        Lie::Mask if count == COUNT => vec![0x81, 0x80, 0, 0, 0, 0],
        _ => truth,
    }
}

fn goodbye(lie: Lie, count: u64, code: &[u8]) -> Vec<u8> {
    let total = count + u64::from(lie == Lie::Total);
    let bye = text(&format!("{{\"bye\":true,\"total\":{total}}}"));
    let close = [&[0x88, code.len() as u8], code].concat();
    match lie {
        Lie::NoBye => close,
        Lie::NoClose => bye,
        Lie::CloseCode => [bye, vec![0x88, 2, 0x03, 0xf3]].concat(),
        _ => [bye, close].concat(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [&[0x81, text.len() as u8], text.as_bytes()].concat()
}

/// A short masked frame, unmasked.
fn read_frame(reader: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    reader.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    reader.read_exact(&mut payload).ok()?;
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= head[2 + index % 4];
    }
    Some((head[0] & 0x0f, payload))
}

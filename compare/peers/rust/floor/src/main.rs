//! The floor: one thread, one epoll, a count a socket, and nothing else. It is no server: it
//! believes that frames come whole, checks nothing, logs nothing, limits nothing. What it costs is
//! what the kernel costs, and no service on this machine can cost less.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    net::{
        AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType, accept_with, bind, listen,
        socket, sockopt,
    },
    time::Timespec,
};

const LISTENER: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

struct Socket {
    stream: TcpStream,
    count: u32,
    open: bool,
}

/// A socket is at the place of its descriptor.
#[derive(Default)]
struct Floor {
    sockets: Vec<Option<Socket>>,
    leaving: bool,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, epoll: &impl std::os::fd::AsFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(stream) = accept_with(listener, flags) {
            let stream = TcpStream::from(stream);
            let place = stream.as_raw_fd() as usize;
            let data = EventData::new_u64(place as u64);
            epoll::add(epoll, &stream, data, EventFlags::IN).unwrap();
            if self.sockets.len() <= place {
                self.sockets.resize_with(place + 1, || None);
            }
            let (count, open) = (0, false);
            self.sockets[place] = Some(Socket {
                stream,
                count,
                open,
            });
        }
    }

    fn read(&mut self, place: usize, buffer: &mut [u8]) {
        let Some(socket) = &mut self.sockets[place] else {
            return;
        };
        match socket.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.sockets[place] = None,
            Ok(length) if socket.open => frames(socket, &mut buffer[..length], self.leaving),
            Ok(length) => upgrade(socket, &buffer[..length]),
        }
    }

    fn beat(&mut self) {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let beat = text(&format!("{{\"ts\":\"{now}\"}}"));
        for socket in self
            .sockets
            .iter_mut()
            .flatten()
            .filter(|socket| socket.open)
        {
            let _ = socket.stream.write(&beat);
        }
    }

    fn dismiss(&mut self) {
        self.leaving = true;
        for socket in self.sockets.iter_mut().flatten() {
            goodbye(socket, &1001_u16.to_be_bytes());
        }
    }
}

fn upgrade(socket: &mut Socket, head: &[u8]) {
    let head = String::from_utf8_lossy(head);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    });
    let hash = sha1_smol::Sha1::from([key.unwrap_or_default().as_bytes(), MAGIC].concat()).digest();
    let accept = STANDARD.encode(hash.bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let _ = socket.stream.write(answer.as_bytes());
    socket.open = true;
}

fn frames(socket: &mut Socket, mut bytes: &mut [u8], leaving: bool) {
    while bytes.len() >= 6 {
        let (head, rest) = bytes.split_at_mut(6);
        let (payload, rest) = rest.split_at_mut(usize::from(head[1] & 0x7f));
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= head[2 + index % 4];
        }
        match head[0] & 0x0f {
            1 => {
                socket.count += 1;
                let answer = text(&format!("{{\"count\":{}}}", socket.count));
                let _ = socket.stream.write(&answer);
            }
            8 if leaving => drop(socket.stream.shutdown(Shutdown::Both)),
            8 => {
                goodbye(socket, payload);
                let _ = socket.stream.shutdown(Shutdown::Both);
            }
            _ => {}
        }
        bytes = rest;
    }
}

fn goodbye(socket: &mut Socket, code: &[u8]) {
    let mut bytes = text(&format!("{{\"bye\":true,\"total\":{}}}", socket.count));
    bytes.extend([0x88, code.len() as u8]);
    bytes.extend(code);
    let _ = socket.stream.write(&bytes);
}

fn text(text: &str) -> Vec<u8> {
    [&[0x81, text.len() as u8], text.as_bytes()].concat()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap();
    let interval = Duration::from_millis(arguments.next().unwrap().parse().unwrap());
    let listener = listen_at(port.parse().unwrap());
    let (signal, sender) = UnixStream::pair().unwrap();
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, sender).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )
    .unwrap();
    epoll::add(
        &epoll,
        &signal,
        EventData::new_u64(SIGNAL),
        EventFlags::IN | EventFlags::ET,
    )
    .unwrap();
    let mut floor = Floor::default();
    let mut buffer = vec![0; 65_536];
    let mut events = Vec::with_capacity(1024);
    let mut next = Instant::now() + interval;
    while !floor.leaving || floor.sockets.iter().any(Option::is_some) {
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        events.clear();
        let _ = epoll::wait(&epoll, spare_capacity(&mut events), Some(&timeout));
        for event in &events {
            match event.data.u64() {
                LISTENER => floor.accept(&listener, &epoll),
                SIGNAL => floor.dismiss(),
                place => floor.read(place as usize, &mut buffer),
            }
        }
        if Instant::now() >= next {
            next += interval;
            floor.beat();
        }
    }
}

/// With a backlog that no ramp overflows, and an option that the sockets inherit.
fn listen_at(port: u16) -> TcpListener {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&listener, true).unwrap();
    sockopt::set_tcp_nodelay(&listener, true).unwrap();
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    listen(&listener, 4096).unwrap();
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true).unwrap();
    listener
}

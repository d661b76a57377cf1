//! What is driven, and good inputs to begin with. No input may panic; what is taken has one meaning.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use skyorg::app::status::http::{Door, Parsed, REQUEST_BYTES_MAX, parse};
use skyorg::base::address::{HostPort, Listen};
use skyorg::config::keys::{self, Origin};
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Resumes, Transports,
    VERSIONS, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Frame, Start};
use skyorg::wire::handshake::{
    ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, Initiator, Purpose, Responder, Secret, Suite, key_id,
};
use skyorg::wire::record::{Channel, SMALL_RECORD_BYTES_MAX};

fn user() -> SocketAddr {
    ([192, 0, 2, 1], 4000).into()
}

fn start(sid: u64) -> Frame<'static> {
    let (user, asked) = (user(), ([192, 0, 2, 2], 443).into());
    Frame::Start(Start { sid, first_sid: 0, publication: 1, port_offset: 0, user, asked, number: sid })
}

fn small_frames() -> Vec<Frame<'static>> {
    let numbered = [
        start(7),
        Frame::Accepted(7),
        Frame::Started(7),
        Frame::Fin(7),
        Frame::Abort(7, AbortReason::Refused),
        Frame::Alive(7),
    ];
    [&numbered[..], &[Frame::Ping, Frame::Pong, Frame::Drain, Frame::Skipped]].concat()
}

pub mod session_frames {
    use super::*;

    pub fn samples() -> Vec<Vec<u8>> {
        small_frames().iter().map(|frame| frame.encode().to_vec()).collect()
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        let Ok(frame) = Frame::decode(bytes) else { return };
        if !matches!(frame, Frame::Data(..)) {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }
}

pub mod control_frames {
    use super::*;

    pub fn samples() -> Vec<Vec<u8>> {
        let (capabilities, heartbeat) = (Capabilities::new(true), Duration::from_secs(30));
        let ports = Ports { first: 1, last: 9 };
        let frames = [
            ControlFrame::Hello(Hello {
                versions: VERSIONS,
                capabilities,
                heartbeat,
                instance: [1; 16],
                resumes: Some(Resumes { link: [3; 16], publications: 2 }),
            }),
            ControlFrame::Welcome(Welcome {
                version: 2,
                capabilities,
                heartbeat,
                instance: [2; 16],
                link: [3; 16],
                pool_key: Secret::new([4; 32]),
                message_port: 33334,
            }),
            ControlFrame::Refused(Refusal::Versions(VERSIONS)),
            ControlFrame::Open { first_ticket: 1, count: 10 },
            ControlFrame::Publish(Publish {
                number: 1,
                name: "web".parse().expect("a name"),
                want: Want::Ports(ports),
                transports: Transports::Both,
                dial_time: heartbeat,
                share: true,
                probe: false,
            }),
            ControlFrame::Granted {
                number: 1,
                addresses: vec![GrantedAddress { ip: user().ip(), ports }; 3],
                is_probed: true,
            },
            ControlFrame::Denied { number: 1, reason: Denial::Policy },
            ControlFrame::Withdrawn { number: 1, reason: Denial::Limit },
            ControlFrame::Unpublish(1),
            ControlFrame::Void { first_ticket: 1, count: 2 },
            ControlFrame::Ping,
            ControlFrame::Drain,
            ControlFrame::Skipped,
        ];
        frames.iter().map(encoded).collect()
    }

    fn encoded(frame: &ControlFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        if let Ok(frame) = ControlFrame::decode(bytes) {
            assert_eq!(ControlFrame::decode(&encoded(&frame)), Ok(frame));
        }
    }
}

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn hello(suite: Suite) -> ClearHello {
    ClearHello { suite, purpose: Purpose::Message, key_id: key_id(&secret()) }
}

pub mod hellos {
    use super::*;

    pub fn samples() -> Vec<Vec<u8>> {
        let flight = |suite| Initiator::begin(hello(suite), &secret(), 1).expect("begins").1.to_vec();
        [Suite::AesGcm, Suite::ChaChaPoly].map(flight).into()
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        let Some(clear) = bytes.first_chunk::<HELLO_BYTES>() else { return };
        let Ok(hello) = ClearHello::decode(clear) else { return };
        assert_eq!(&hello.encode(), clear);
        if let Some(flight) = bytes.first_chunk::<FIRST_FLIGHT_BYTES>()
            && let Ok((responder, _)) = Responder::verify(hello, &secret(), flight)
        {
            assert!(samples().len() == 2 && responder.answer().is_ok());
        }
    }
}

pub mod records {
    use super::*;

    fn pair(plain: bool) -> (Channel, Channel) {
        let (initiator, flight) = Initiator::begin(hello(Suite::AesGcm), &secret(), 1).expect("begins");
        let (responder, _) = Responder::verify(hello(Suite::AesGcm), &secret(), &flight).expect("proved");
        let (answer, server) = responder.answer().expect("answers");
        let client = initiator.finish(&answer).expect("finishes");
        (Channel::new(client, plain), Channel::new(server, plain))
    }

    pub fn samples() -> Vec<Vec<u8>> {
        small_frames().iter().map(|frame| frame.encode().to_vec()).collect()
    }

    /// The first bytes are sealed truly, and the rest follows as it is.
    pub fn run(bytes: &[u8], rng: &mut Rng) {
        let plain = rng.bool();
        let (mut client, mut server) = pair(plain);
        let mut wire = Vec::new();
        for frame in small_frames().iter().take(rng.usize(..4)) {
            let mut record = [0; SMALL_RECORD_BYTES_MAX];
            let count = client.seal(&frame.encode(), &mut record).expect("seals");
            wire.extend(&record[..count]);
        }
        if rng.bool() {
            wire.extend((bytes.len() as u32).to_be_bytes());
        }
        wire.extend(bytes);
        let mut clear = vec![0; wire.len()];
        let (mut from, mut to) = (0, 0);
        while to < wire.len() {
            to = (to + 1 + rng.usize(..60)).min(wire.len());
            loop {
                match server.open(&wire[from..to], &mut &mut clear[..]) {
                    Ok(opened) if opened.consumed == 0 => break,
                    Ok(opened) => from += opened.consumed,
                    Err(_) => return,
                }
                assert!(from <= to, "no more is consumed than there is");
            }
        }
    }
}

pub mod key_files {
    use super::*;

    pub fn samples() -> Vec<Vec<u8>> {
        let line = |name: &str, letter: &str| format!("{name} {}\n", letter.repeat(43));
        let two = format!("# keys\r\n\n{}{}", line("office", "A"), line("home", "Q"));
        [line("a.b_c-d", "A"), two, line("office", "=")].map(String::into_bytes).into()
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        match keys::parse(bytes, &Origin::Variable) {
            Ok(found) => assert!(!found.is_empty()),
            // An error quotes no secret: no line of a key file is as long as one.
            Err(error) => {
                let text = error.to_string();
                let quoted = text.split(|letter: char| !letter.is_ascii_alphanumeric());
                assert!(quoted.into_iter().all(|word| word.len() < 43), "{text}");
            }
        }
    }
}

pub mod configuration_files {
    use super::*;
    use skyorg::config::file::{Text, parse};
    use std::time::UNIX_EPOCH;

    /// What is written in each sample, and must never be told.
    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";

    pub fn samples() -> Vec<Vec<u8>> {
        let server = "keys = \"keys\"\r\nmessage = 4000\npool = 5\n[service.web]\nlisten = [443, \"[::1]:80\"]\nfrom = \"::/0\"\n\
                      idle = \"5 min\"\n[key.office]\nservices = [\"web\", \"b\"]\nports = \"1-9\"\nrate = \"1.5 Mbit/s\"\n\
                      expires = 2027-01-31\n";
        let client = "server = 'a'\nplain = true\ndrain = 1.5\npublish.web = { local = 80, dial-time = '1 s' }\n\
                      [expose.game]\nlocal = 'h:27000'\nports = \"27000-27100\"\nshare = false\n";
        let secret = format!("[key.{SECRET}]\nsecret = \"{SECRET}\"\n[[{SECRET}]]\na = {SECRET}\n");
        [server.to_owned(), client.to_owned(), secret].map(String::into_bytes).into()
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        let name = "f".into();
        let told = match Text::of(&name, bytes) {
            Err(faults) => faults,
            Ok(text) => match parse(&name, text.as_str(), UNIX_EPOCH) {
                Err(faults) => faults,
                Ok(parsed) => {
                    let mut told = parsed.faults.finish();
                    told.extend(parsed.warnings.finish());
                    told
                }
            },
        };
        let lines = bytes.split(|&byte| byte == b'\n').count();
        for fault in told.told() {
            assert!(fault.place.line <= lines && !fault.what.contains('\n'), "{fault}");
        }
        assert!(!told.to_string().contains(&SECRET[4..28]), "{told}");
    }
}

pub mod addresses {
    use super::*;

    pub fn samples() -> Vec<Vec<u8>> {
        ["8080", "*:80", "127.0.0.1:80", "[::1]:80", "db.lan:5432", "[fe80::1%eth0]:80", ":80", "::1"]
            .map(|text| text.as_bytes().to_vec())
            .into()
    }

    pub fn run(bytes: &[u8], _: &mut Rng) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(listen) = text.parse::<Listen>() {
            assert_eq!(listen.to_string().parse(), Ok(listen));
        }
        for (host, port) in [(None, None), (Some("localhost"), None), (None, Some(33335))] {
            if let Ok(read) = HostPort::parse(text, host, port) {
                assert_eq!(HostPort::parse(&read.to_string(), None, None), Ok(read));
            }
        }
    }
}

pub mod requests {
    use super::*;

    const DOORS: [Door; 2] = [Door::Socket, Door::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))];

    pub fn samples() -> Vec<Vec<u8>> {
        [
            "GET /metrics HTTP/1.1\r\nHost: localhost:9100\r\n\r\n",
            "HEAD /health/web HTTP/1.1\r\nHost: [::1]:9100\r\nAccept: */*\r\n\r\n",
            "GET /status.txt?width=100&colours=1&live=1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n",
            "POST /status.json HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    }

    /// What comes behind a request changes nothing of it.
    pub fn run(bytes: &[u8], rng: &mut Rng) {
        for door in DOORS {
            match parse(bytes, door) {
                Parsed::Partial => assert!(bytes.len() < REQUEST_BYTES_MAX),
                Parsed::Refused(answer) => assert!(!answer.status.starts_with('2')),
                Parsed::Good(request) => {
                    let more: Vec<u8> = (0..rng.usize(..9)).map(|_| rng.u8(..)).collect();
                    match parse(&[bytes, &more].concat(), door) {
                        Parsed::Good(again) => assert_eq!(again, request),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}

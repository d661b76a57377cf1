//! The bytes of every frame of version 2 of the wire, as they were when it was published. A server or client of then is
//! served as long as these are what is written for the same frames, and are read as the same frames.

use std::time::Duration;

use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Resumes, Transports,
    Versions, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Frame, Start, encode_data_head};
use skyorg::wire::handshake::{ClearHello, Purpose, Secret, Suite, key_id};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn publish(number: u32, name: &str, want: Want) -> ControlFrame {
    let (name, transports) = (name.parse().expect("a name"), Transports::Tcp);
    let dial_time = Duration::from_secs(5);
    ControlFrame::Publish(Publish { number, name, want, transports, dial_time, share: false, probe: true })
}

/// Each control frame and its bytes.
fn control_frames() -> Vec<(ControlFrame, &'static str)> {
    let (versions, heartbeat) = (Versions { least: 2, most: 2 }, Duration::from_secs(30));
    let address = |ip: &str, first, last| GrantedAddress {
        ip: ip.parse().expect("an address"),
        ports: Ports { first, last },
    };
    vec![
        (
            ControlFrame::Hello(Hello {
                versions,
                capabilities: Capabilities::default(),
                heartbeat,
                instance: [0xa1; 16],
                resumes: None,
            }),
            "0100020002000000000000000000007530a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
        ),
        (
            ControlFrame::Hello(Hello {
                versions,
                capabilities: Capabilities(0x1e),
                heartbeat,
                instance: [0xa1; 16],
                resumes: Some(Resumes { link: [0xa3; 16], publications: 3 }),
            }),
            "0100020002000000000000001e00007530a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100010014a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a300000003",
        ),
        (
            ControlFrame::Welcome(Welcome {
                version: 2,
                capabilities: Capabilities::PLAIN,
                heartbeat,
                instance: [0xa2; 16],
                link: [0xa3; 16],
                pool_key: Secret::new([0xa4; 32]),
                message_port: 33334,
            }),
            "020002000000000000000100007530a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a48236",
        ),
        (ControlFrame::Refused(Refusal::Versions(versions)), "030100020002"),
        (ControlFrame::Refused(Refusal::Plain(true)), "030201"),
        (ControlFrame::Refused(Refusal::Links { count: 7, of_key: true }), "03030100000007"),
        (ControlFrame::Open { first_ticket: 0x0102_0304_0506_0708, count: 10 }, "0401020304050607080000000a"),
        (ControlFrame::Ping, "05"),
        (ControlFrame::Pong, "06"),
        (ControlFrame::Drain, "07"),
        (publish(1, "web", Want::Service), "080000000103776562010100001388"),
        (publish(2, "any", Want::AnyPort), "080000000203616e79020100001388"),
        (
            publish(3, "game", Want::Ports(Ports { first: 27000, last: 27100 })),
            "08000000030467616d6503697869dc0100001388",
        ),
        (
            ControlFrame::Granted {
                number: 1,
                addresses: vec![address("::", 443, 443), address("192.0.2.1", 27000, 27100)],
                is_probed: false,
            },
            "0900000001020000000000000000000000000000000001bb01bb00000000000000000000ffffc0000201697869dc",
        ),
        (ControlFrame::Granted { number: 2, addresses: vec![], is_probed: true }, "0900000002000001000101"),
        (ControlFrame::Denied { number: 1, reason: Denial::UnknownService }, "0a0000000101"),
        (ControlFrame::Denied { number: 2, reason: Denial::Policy }, "0a0000000202"),
        (ControlFrame::Denied { number: 3, reason: Denial::PortTaken }, "0a0000000303"),
        (ControlFrame::Denied { number: 4, reason: Denial::Limit }, "0a0000000404"),
        (ControlFrame::Denied { number: 5, reason: Denial::AlreadyPublished }, "0a0000000505"),
        (ControlFrame::Unpublish(1), "0b00000001"),
        (ControlFrame::Withdrawn { number: 1, reason: Denial::Policy }, "0c0000000102"),
        (ControlFrame::Void { first_ticket: 8, count: 2 }, "0d000000000000000800000002"),
    ]
}

/// Each session frame but Data, and its bytes.
fn session_frames() -> Vec<(Frame<'static>, &'static str)> {
    let start = Start {
        sid: 9,
        first_sid: 4,
        publication: 1,
        port_offset: 3,
        user: "203.0.113.7:51034".parse().expect("an address"),
        asked: "[2001:db8::1]:443".parse().expect("an address"),
        number: 4711,
    };
    vec![
        (
            Frame::Start(start),
            "010000000000000009000000000000000400000001000300000000000000000000ffffcb007107c75a20010db800000000000000000000000101bb0000000000001267",
        ),
        (Frame::Accepted(9), "020000000000000009"),
        (Frame::Started(9), "030000000000000009"),
        (Frame::Fin(9), "050000000000000009"),
        (Frame::Abort(9, AbortReason::Reset), "06000000000000000901"),
        (Frame::Abort(9, AbortReason::Refused), "06000000000000000902"),
        (Frame::Abort(9, AbortReason::Duplicate), "06000000000000000903"),
        (Frame::Ping, "070000000000000000"),
        (Frame::Pong, "080000000000000000"),
        (Frame::Drain, "090000000000000000"),
        (Frame::Alive(9), "0a0000000000000009"),
    ]
}

#[test]
fn control_frames_are_written_and_read_as_ever() {
    for (frame, golden) in control_frames() {
        let mut written = Vec::new();
        frame.encode(&mut written);
        assert_eq!(hex(&written), golden, "{frame:?}");
        assert_eq!(ControlFrame::decode(&bytes(golden)), Ok(frame));
    }
}

#[test]
fn session_frames_are_written_and_read_as_ever() {
    for (frame, golden) in session_frames() {
        assert_eq!(hex(&frame.encode()), golden, "{frame:?}");
        assert_eq!(Frame::decode(&bytes(golden)), Ok(frame));
    }
    assert_eq!(hex(&encode_data_head(9)), "040000000000000009");
    assert_eq!(Frame::decode(&bytes("0400000000000000096869")), Ok(Frame::Data(9, b"hi")));
}

#[test]
fn the_clear_hello_and_the_id_of_a_key_are_as_ever() {
    let id = key_id(&Secret::new([7; 32]));
    assert_eq!(hex(&id), "a279f5d1fc8c596bdf81d455bff13bc9");
    for (suite, purpose, golden) in [
        (Suite::AesGcm, Purpose::Control, "534b594f02010100a279f5d1fc8c596bdf81d455bff13bc9"),
        (Suite::ChaChaPoly, Purpose::Message, "534b594f02020200a279f5d1fc8c596bdf81d455bff13bc9"),
    ] {
        let hello = ClearHello { suite, purpose, key_id: id };
        assert_eq!(hex(&hello.encode()), golden);
        let read = bytes(golden).try_into().expect("as long as a hello");
        assert_eq!(ClearHello::decode(&read), Ok(hello));
    }
}

//! Requests and their answers: which there are, and how long they took.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    cell::UnsafeCell,
    hint,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use proptest::prelude::*;
use tidewaiter_common::{
    api::ApiSlot,
    flow::{Flow, PENDING},
    packet::tcp_flag::{ACK, FIN, PSH},
    turn::{Segment, Talk},
};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;

/// How much a time may differ from the truth: both ends of it are told to so much.
const UNIT: u64 = 128;

/// Time at which conversations begin.
const START: u64 = 1_000_000 * SECOND;

/// What one side sends with `flags`: `payload` bytes from `sequence` on, having received what comes before `acknowledgement`.
fn segment(sequence: u32, payload: u32, acknowledgement: u32, flags: u8) -> Segment {
    Segment { sequence, acknowledgement, payload, flags: flags.into() }
}

fn is_near(sample: u64, truth: u64) -> bool {
    sample.abs_diff(truth) <= UNIT
}

/// A flow, and two ends that talk. Numbers of bytes are those of each end's own; both begin somewhere.
struct Conversation {
    flow: Flow,
    talk: Talk,
    is_server: bool,
    /// What both ends number their first byte.
    first: [u32; 2],
    now: u64,
    samples: Vec<u64>,
    requests: usize,
    responses: usize,
}

impl Conversation {
    const fn new(talk: Talk, is_server: bool) -> Self {
        Self {
            flow: Flow::new(ApiSlot(1), 0, 0),
            talk,
            is_server,
            first: [1_000, 5_000_000],
            now: START,
            samples: Vec::new(),
            requests: 0,
            responses: 0,
        }
    }

    const fn after(&mut self, time: u64) -> &mut Self {
        self.now += time;
        self
    }

    /// The client's bytes `from..to` pass, and it has received `received`.
    fn ask(&mut self, from: u32, to: u32, received: u32, flags: u8, begins: bool) -> &mut Self {
        let [client, server] = self.first;
        let sequence = client.wrapping_add(from);
        let segment = segment(sequence, to - from, server.wrapping_add(received), ACK | flags);
        // As the programs do.
        if segment.payload > 0 {
            let flow = &raw mut self.flow;
            // SAFETY: nobody else has the flow.
            let is_new = unsafe { Flow::ask(flow, &segment, self.talk, begins, self.is_server, || self.now) };
            self.requests += usize::from(is_new);
        }
        self
    }

    /// The server's bytes `from..to` pass, and it has received `received`.
    fn say(&mut self, from: u32, to: u32, received: u32, status: u16) -> &mut Self {
        let [client, server] = self.first;
        let segment = segment(server.wrapping_add(from), to - from, client.wrapping_add(received), ACK | PSH);
        self.say_segment(&segment, status)
    }

    fn say_segment(&mut self, segment: &Segment, status: u16) -> &mut Self {
        // SAFETY: nobody else has the flow.
        let (sample, is_new) = unsafe { Flow::answer(&raw mut self.flow, segment, self.talk, status, || self.now) };
        self.samples.extend(sample);
        self.responses += usize::from(is_new);
        self
    }

    /// The server acknowledges.
    fn acknowledge(&mut self, received: u32) -> &mut Self {
        self.say(0, 0, received, 0)
    }

    fn waits(&self) -> bool {
        // SAFETY: nobody else has the flow.
        Flow::waits(unsafe { Flow::turns(&raw const self.flow) })
    }

    /// Sees that the samples since the last time are these.
    #[track_caller]
    fn expect(&mut self, truth: &[u64]) -> &mut Self {
        let samples = std::mem::take(&mut self.samples);
        let are_near = samples.iter().zip(truth).all(|(sample, truth)| is_near(*sample, *truth));
        assert!(samples.len() == truth.len() && are_near, "{samples:?}, and not {truth:?}");
        self
    }
}

/// One for each place that this host may be in, and for the kinds of talk over TCP.
fn conversations() -> impl Iterator<Item = Conversation> {
    [Talk::Stream, Talk::Http1]
        .into_iter()
        .flat_map(|talk| [true, false].map(|is_server| Conversation::new(talk, is_server)))
}

/// Of streams alone.
fn streams() -> [Conversation; 2] {
    [true, false].map(|is_server| Conversation::new(Talk::Stream, is_server))
}

fn http() -> [Conversation; 2] {
    [true, false].map(|is_server| Conversation::new(Talk::Http1, is_server))
}

#[test]
fn each_request_has_one_answer() {
    for mut talk in conversations() {
        for turn in 0..10 {
            let (asked, said) = (turn * 100, turn * 2_000);
            talk.after(SECOND).ask(asked, asked + 100, said, PSH, true);
            talk.after(3 * MILLISECOND).acknowledge(asked + 100);
            talk.after(4 * MILLISECOND).say(said, said + 1_000, asked + 100, 200);
            talk.after(MILLISECOND).say(said + 1_000, said + 2_000, asked + 100, 0);
            talk.expect(&[7 * MILLISECOND]);
            assert!(!talk.waits());
        }
        assert_eq!((talk.requests, talk.flow.responses), (10, 10));
        assert!(talk.flow.response_time.abs_diff(70 * MILLISECOND) <= 10 * UNIT);
    }
}

#[test]
fn the_time_is_that_of_the_last_segment_of_a_request() {
    for mut talk in conversations() {
        talk.ask(0, 100, 0, 0, true).after(SECOND).ask(100, 200, 0, 0, false);
        talk.after(SECOND).ask(200, 300, 0, PSH, false);
        talk.after(MILLISECOND).say(0, 10, 300, 200).expect(&[MILLISECOND]);
        // Many segments that are each handed on at once.
        for part in 3..10 {
            talk.after(SECOND).ask(part * 100, part * 100 + 100, 10, PSH, part == 3);
        }
        talk.after(MILLISECOND).say(10, 20, 1_000, 200).expect(&[MILLISECOND]);
        assert_eq!(talk.requests, 2);
    }
}

#[test]
fn what_is_said_before_all_of_the_request_is_there_is_no_answer_of_a_stream() {
    for mut talk in streams() {
        talk.ask(0, 100, 0, PSH, false).ask(100, 200, 0, PSH, false);
        talk.after(MILLISECOND).say(0, 10, 100, 0).expect(&[]);
        talk.after(MILLISECOND).say(10, 20, 200, 0).expect(&[2 * MILLISECOND]);
    }
}

#[test]
fn requests_of_http_wait_in_a_row() {
    for mut talk in http() {
        for count in 1..=PENDING as u32 {
            let (asked, said) = (count * 10_000, count * 10_000);
            for number in 0..count {
                talk.after(SECOND).ask(asked + number * 10, asked + number * 10 + 10, said, PSH, true);
            }
            for number in 0..count {
                talk.after(SECOND).say(said + number, said + number + 1, asked + count * 10, 200);
            }
            talk.expect(&vec![u64::from(count) * SECOND; count as usize]);
            assert!(!talk.waits());
        }
        assert_eq!((talk.requests, talk.responses), (10, 10));
    }
}

#[test]
fn requests_of_http_that_are_too_many_are_counted_but_not_timed() {
    for mut talk in http() {
        for number in 0..7 {
            talk.after(SECOND).ask(number * 10, number * 10 + 10, 0, PSH, true);
        }
        for number in 0..7 {
            talk.after(SECOND).say(number, number + 1, 70, 200);
        }
        talk.expect(&[7 * SECOND; PENDING]);
        assert_eq!((talk.requests, talk.responses), (7, 7));
        // Those after them are timed again.
        talk.ask(70, 80, 7, PSH, true).after(SECOND).say(7, 8, 80, 200).expect(&[SECOND]);
        assert!(!talk.waits());
    }
}

#[test]
fn interim_answers_of_http_are_counted_but_are_not_the_answer() {
    for mut talk in http() {
        talk.ask(0, 100, 0, PSH, true).after(SECOND).say(0, 25, 100, 100);
        // The body, for which it waited.
        talk.after(SECOND).ask(100, 2_000, 25, PSH, false);
        talk.after(SECOND).say(25, 50, 2_000, 103).expect(&[]);
        talk.after(SECOND).say(50, 100, 2_000, 200).expect(&[2 * SECOND]);
        assert_eq!((talk.requests, talk.responses), (1, 3));
        talk.ask(2_000, 2_100, 100, PSH, true).after(SECOND).say(100, 200, 2_100, 101).expect(&[SECOND]);
        // Whatever else is spoken from then on.
        talk.ask(2_100, 2_200, 200, PSH, false).after(SECOND).say(200, 300, 2_200, 0).expect(&[]);
        assert!(!talk.waits());
    }
}

#[test]
fn a_greeting_answers_nothing() {
    for mut talk in streams() {
        talk.say(0, 50, 0, 0).after(SECOND).ask(0, 10, 50, PSH, false).after(MILLISECOND);
        // Sent again, for the acknowledgement was lost: it says what was received meanwhile.
        talk.say(0, 50, 10, 0).expect(&[]);
        talk.after(MILLISECOND).say(50, 100, 10, 0).expect(&[2 * MILLISECOND]);
    }
}

#[test]
fn when_both_speak_at_once_only_what_acknowledges_is_an_answer() {
    for mut talk in streams() {
        talk.ask(0, 10, 0, PSH, false);
        // On its way when the request was.
        talk.after(MILLISECOND).say(0, 50, 0, 0).expect(&[]);
        talk.after(MILLISECOND).say(50, 100, 10, 0).expect(&[2 * MILLISECOND]);
        // What goes on with an earlier answer cannot be told from the answer to a request that came meanwhile.
        talk.ask(10, 20, 70, PSH, false).after(MILLISECOND).say(100, 150, 20, 0).expect(&[MILLISECOND]);
    }
}

#[test]
fn a_request_that_is_sent_again_keeps_its_time() {
    for mut talk in conversations() {
        talk.ask(0, 100, 0, 0, true).ask(100, 200, 0, PSH, false).after(SECOND);
        talk.ask(100, 200, 0, PSH, false).after(SECOND).ask(0, 100, 0, 0, true);
        talk.after(SECOND).say(0, 50, 200, 200).expect(&[3 * SECOND]);
        // After the answer it is none.
        talk.after(SECOND).ask(0, 100, 0, 0, true).ask(100, 200, 50, PSH, false).ask(0, 200, 50, PSH, true);
        assert!(!talk.waits());
        talk.say(0, 50, 200, 200).say(50, 60, 200, 0).expect(&[]);
        // Nor is it while the next one waits.
        talk.ask(200, 300, 60, PSH, true).after(SECOND).ask(100, 200, 60, PSH, false).ask(0, 200, 60, PSH, true);
        talk.after(SECOND).say(60, 70, 300, 200).expect(&[2 * SECOND]);
        assert_eq!(talk.requests, 2);
    }
}

#[test]
fn an_answer_that_is_sent_again_answers_nothing_else() {
    for mut talk in conversations() {
        talk.ask(0, 100, 0, PSH, true).after(SECOND).say(0, 50, 100, 200).say(50, 100, 100, 0).expect(&[SECOND]);
        talk.after(SECOND).ask(100, 200, 100, PSH, true).after(SECOND);
        talk.say(0, 50, 200, 200).say(50, 100, 200, 0).say(0, 100, 200, 200).expect(&[]);
        talk.after(SECOND).say(100, 150, 200, 404).expect(&[2 * SECOND]);
        assert_eq!(talk.responses, if talk.talk == Talk::Http1 { 2 } else { 0 });
    }
    // Lost before the client had any of it, which did not wait for it with its next request.
    for mut talk in http() {
        talk.ask(0, 100, 0, PSH, true).after(SECOND).say(1_000, 1_050, 100, 200).expect(&[SECOND]);
        talk.ask(100, 200, 1_000, PSH, true).after(SECOND).say(1_000, 1_050, 200, 200).expect(&[]);
        talk.after(SECOND).say(1_050, 1_100, 200, 200).expect(&[2 * SECOND]);
    }
}

#[test]
fn a_server_has_the_request_when_the_last_of_it_that_was_missing_arrives() {
    for mut talk in conversations().filter(|talk| talk.is_server) {
        // A segment in its middle is lost at first, and two more are.
        talk.ask(0, 100, 0, 0, true).acknowledge(100).after(SECOND);
        talk.ask(200, 300, 0, 0, false).acknowledge(100).ask(400, 500, 0, PSH, false).acknowledge(100);
        talk.after(SECOND).ask(100, 200, 0, 0, false).acknowledge(300);
        talk.after(SECOND).ask(300, 400, 0, 0, false).acknowledge(500);
        // What is sent again although it was there changes nothing.
        talk.after(SECOND).ask(400, 500, 0, PSH, false).ask(0, 100, 0, 0, true);
        talk.after(SECOND).say(0, 50, 500, 200).expect(&[2 * SECOND]);
        assert_eq!(talk.requests, 1);
    }
    // The first segment is the last to arrive.
    let [mut talk, _] = streams();
    talk.ask(100, 200, 0, PSH, false).acknowledge(0).after(SECOND).ask(0, 100, 0, 0, false).acknowledge(200);
    talk.after(MILLISECOND).say(0, 50, 200, 0).expect(&[MILLISECOND]);
    // Of HTTP/1, what says that a request begins.
    let [mut talk, _] = http();
    talk.ask(100, 200, 0, PSH, false).acknowledge(0).after(SECOND).ask(0, 100, 0, 0, true).acknowledge(200);
    talk.after(MILLISECOND).say(0, 50, 200, 200).expect(&[MILLISECOND]);
    // And where more was missing than that, it is not known that more is to come.
    talk.ask(400, 500, 50, PSH, false).acknowledge(200).after(SECOND).ask(200, 300, 50, 0, true).acknowledge(300);
    talk.after(SECOND).ask(300, 400, 50, 0, false).acknowledge(500);
    talk.after(SECOND).say(50, 100, 500, 200).expect(&[2 * SECOND]);
}

#[test]
fn a_client_has_asked_when_it_has_sent_all_whatever_arrives_when() {
    for mut talk in conversations().filter(|talk| !talk.is_server) {
        talk.ask(0, 100, 0, 0, true).ask(100, 200, 0, PSH, false).after(SECOND);
        talk.acknowledge(0).ask(0, 100, 0, 0, true).after(SECOND).acknowledge(200);
        talk.after(SECOND).say(0, 50, 200, 200).expect(&[3 * SECOND]);
    }
    // Segments of an answer that overtake each other: the first that arrives.
    let [_, mut talk] = streams();
    talk.ask(0, 100, 0, PSH, false).after(SECOND).say(50, 100, 100, 0).after(SECOND).say(0, 50, 100, 0);
    talk.expect(&[SECOND]);
    // Of HTTP/1, the first of it.
    let [_, mut talk] = http();
    talk.ask(0, 100, 0, PSH, true).after(SECOND).say(50, 100, 100, 0).after(SECOND).say(0, 50, 100, 200);
    talk.expect(&[2 * SECOND]);
}

#[test]
fn probes_whether_the_other_side_is_alive_ask_nothing() {
    for mut talk in conversations() {
        talk.ask(0, 100, 0, PSH, true).after(SECOND);
        for flags in [0, PSH] {
            // One byte of what was sent, or none of it (RFC 9293 section 3.8.4).
            talk.ask(99, 100, 0, flags, false).acknowledge(100).ask(99, 99, 0, flags, false).acknowledge(100);
        }
        talk.after(SECOND).say(0, 50, 100, 200).expect(&[2 * SECOND]);
        for flags in [0, PSH] {
            talk.after(SECOND).ask(99, 100, 50, flags, false).acknowledge(100).say(49, 50, 100, 0);
            assert!(!talk.waits());
        }
        talk.ask(100, 200, 50, PSH, true).after(SECOND).say(49, 50, 200, 0).expect(&[]);
        talk.after(SECOND).say(50, 60, 200, 200).expect(&[2 * SECOND]);
        assert_eq!(talk.requests, 2);
    }
}

#[test]
fn a_side_that_is_done_may_still_be_answered() {
    for mut talk in conversations() {
        // The end comes with the request, and has a number of its own.
        talk.ask(0, 100, 0, FIN, true).acknowledge(101).after(SECOND).say(0, 50, 101, 200).expect(&[SECOND]);
    }
    for mut talk in conversations() {
        talk.ask(0, 100, 0, PSH, true).after(SECOND).ask(100, 100, 0, FIN, false).acknowledge(101);
        talk.after(SECOND).say(0, 50, 101, 200).expect(&[2 * SECOND]);
        talk.say(50, 50, 101, 0).ask(101, 101, 51, 0, false);
        assert!(!talk.waits());
    }
}

#[test]
fn one_side_alone_makes_no_time() {
    for mut talk in conversations() {
        for number in 0..100 {
            talk.after(SECOND).ask(number * 10, number * 10 + 10, number, PSH, true);
        }
        assert_eq!(talk.requests, if talk.talk == Talk::Http1 { 100 } else { 1 });
        talk.expect(&[]);
    }
    for mut talk in conversations() {
        for number in 0..100 {
            talk.after(SECOND).say(number * 10, number * 10 + 10, 0, 200).expect(&[]);
        }
    }
}

#[test]
fn numbers_go_round() {
    for talk in conversations() {
        for before in [0_u32, 1, 99, 100, 101, 150, 250] {
            let mut talk =
                Conversation { first: [before.wrapping_neg(); 2], ..Conversation::new(talk.talk, talk.is_server) };
            for turn in 0..4 {
                let (asked, said) = (turn * 100, turn * 100);
                talk.ask(asked, asked + 50, said, 0, true).ask(asked + 50, asked + 100, said, PSH, false);
                talk.after(SECOND).ask(asked, asked + 50, said, 0, true).acknowledge(asked + 100);
                talk.say(said, said + 100, asked + 100, 200).expect(&[SECOND]);
            }
            assert_eq!(talk.requests, 4);
        }
    }
}

/// Long uploads and downloads: of about half of all numbers, of nearly all, and of more.
#[test]
fn conversations_go_on_after_gigabytes() {
    const PART: u32 = 1 << 28;
    for gigabytes in [1_u32, 2, 3, 4, 5, 7] {
        for mut talk in conversations() {
            let [mut asked, mut said] = talk.first;
            let mut turn = |talk: &mut Conversation, upload: u32, download: u32| {
                talk.first = [asked, said];
                talk.after(SECOND).ask(0, 100, 0, PSH, true);
                asked = asked.wrapping_add(100);
                for _ in 0..upload {
                    talk.first = [asked, said];
                    talk.ask(0, PART, 0, PSH, false).acknowledge(PART);
                    asked = asked.wrapping_add(PART);
                }
                talk.first = [asked, said];
                talk.after(SECOND).say(0, 100, 0, 200).expect(&[SECOND]);
                said = said.wrapping_add(100);
                for _ in 0..download {
                    talk.first = [asked, said];
                    talk.say(0, PART, 0, 0);
                    said = said.wrapping_add(PART);
                }
                assert!(!talk.waits());
            };
            for (upload, download) in [(0, 0), (4 * gigabytes, 0), (0, 0), (0, 4 * gigabytes), (0, 0), (0, 0)] {
                turn(&mut talk, upload, download);
            }
            assert_eq!(talk.requests, 6, "{gigabytes} GiB, {:?}", talk.talk);
        }
    }
}

#[test]
fn no_time_and_much_time_are_told() {
    let wait = [0, 1, 127, 128, MICROSECOND, MINUTE, 9 * MINUTE, 10 * MINUTE, 60 * MINUTE, 18 * 60 * MINUTE];
    for mut talk in conversations() {
        for (turn, time) in (0..).zip(wait) {
            talk.ask(turn * 10, turn * 10 + 10, turn, PSH, true).after(time);
            talk.say(turn, turn + 1, turn * 10 + 10, 200).expect(&[time]);
        }
    }
    // The clock of the CPU that has seen the answer may be behind.
    let [mut talk, _] = streams();
    talk.ask(0, 10, 0, PSH, false);
    talk.now -= 2 * UNIT;
    talk.say(0, 1, 10, 0).expect(&[0]);
    // 9 minutes are not where a time goes round unnoticed, wherever it is.
    for shift in 0..64 {
        talk.now = START + shift * 10 * SECOND;
        talk.ask(10, 20, 1, PSH, false).after(10 * MINUTE).say(1, 2, 20, 0).expect(&[10 * MINUTE]);
        let Conversation { first: [client, server], .. } = &mut talk;
        (*client, *server) = (client.wrapping_add(10), server.wrapping_add(1));
    }
}

#[test]
fn a_connection_that_becomes_http_goes_on() {
    // It was taken up in the middle of a request, and what is answered says what it is.
    for mut talk in streams() {
        talk.ask(0, 100, 0, PSH, false).after(SECOND);
        talk.talk = Talk::Http1;
        talk.say(0, 50, 100, 200).expect(&[SECOND]);
        talk.ask(100, 200, 50, PSH, true).after(SECOND).say(50, 100, 200, 200).expect(&[SECOND]);
        assert_eq!(talk.requests, 2);
    }
}

/// A datagram with the identifier `id`.
fn datagram(id: u16) -> Segment {
    segment(id.into(), 40, 0, 0)
}

impl Conversation {
    fn ask_datagram(&mut self, id: u16) -> &mut Self {
        // SAFETY: nobody else has the flow.
        let is_new = unsafe {
            Flow::ask(&raw mut self.flow, &datagram(id), Talk::Datagrams, false, self.is_server, || self.now)
        };
        assert!(!is_new, "is not of HTTP/1");
        self
    }

    fn answer_datagram(&mut self, id: u16) -> &mut Self {
        self.say_segment(&datagram(id), 0)
    }
}

#[test]
fn a_datagram_answers_that_with_its_identifier() {
    for is_server in [true, false] {
        let mut talk = Conversation::new(Talk::Datagrams, is_server);
        for id in [0, 1, 2, 3, 65_535] {
            talk.ask_datagram(id).after(SECOND).answer_datagram(id).expect(&[SECOND]);
            assert!(!talk.waits());
        }
        // Several at once, answered in another order; and what nobody asked.
        for id in [8, 9, 10, 11] {
            talk.after(SECOND).ask_datagram(id);
        }
        talk.answer_datagram(12).answer_datagram(0).expect(&[]);
        talk.answer_datagram(11).answer_datagram(8).answer_datagram(10).answer_datagram(9);
        talk.expect(&[0, 3 * SECOND, SECOND, 2 * SECOND]);
        assert!(!talk.waits());
        // Twice.
        talk.ask_datagram(5).after(SECOND).answer_datagram(5).answer_datagram(5).expect(&[SECOND]);
        // Not at all: whoever comes to its place is answered.
        talk.ask_datagram(7).after(SECOND).ask_datagram(11).after(SECOND);
        talk.answer_datagram(7).expect(&[]).answer_datagram(11).expect(&[SECOND]);
        assert!(!talk.waits());
        // Asked again, it counts from then.
        talk.ask_datagram(7).after(SECOND).ask_datagram(7).after(2 * SECOND);
        talk.answer_datagram(7).expect(&[2 * SECOND]).answer_datagram(7).expect(&[]);
        assert!(!talk.waits());
    }
}

/// How the segments of a request or of an answer arrive at the place where they are seen: cuts, order, and what comes twice.
#[derive(Clone, Debug)]
struct Way {
    /// Length of each segment, and whether it is to be handed on at once; the last one always is.
    segments: Vec<(u32, bool)>,
    /// Which segment comes at each place, by its number modulo their number: any may come late, or again.
    order: Vec<usize>,
    /// Which come again when the next thing is said.
    late: Vec<usize>,
    /// Nanoseconds before each of all that.
    waits: Vec<u64>,
}

fn way() -> impl Strategy<Value = Way> {
    let segments = prop::collection::vec((1_u32..2_000, any::<bool>()), 1..6);
    let indexes = |most| prop::collection::vec(0_usize..64, 0..most);
    (segments, indexes(12), indexes(4), prop::collection::vec(0_u64..SECOND, 8))
        .prop_map(|(segments, order, late, waits)| Way { segments, order, late, waits })
}

impl Way {
    /// The segments: from, to, and whether each is to be handed on.
    fn cuts(&self, start: u32) -> Vec<(u32, u32, bool)> {
        let mut from = start;
        let last = self.segments.len() - 1;
        let cut = |(at, (length, push)): (usize, &(u32, bool))| {
            from += length;
            (from - length, from, *push || at == last)
        };
        self.segments.iter().enumerate().map(cut).collect()
    }

    /// The order in which they come: all of them come, some of them more than once.
    fn arrivals(&self, first_is_first: bool) -> Vec<usize> {
        let count = self.segments.len();
        let mut order: Vec<_> = first_is_first.then_some(0).into_iter().collect();
        order.extend(self.order.iter().map(|number| number % count));
        order.extend((0..count).filter(|number| !order.contains(number)).collect::<Vec<_>>());
        order
    }

    fn in_order(&self) -> Vec<usize> {
        (0..self.segments.len()).collect()
    }
}

/// What a receiver has: from what number on something is missing.
struct Received {
    next: u32,
    rest: Vec<(u32, u32)>,
}

impl Received {
    /// Takes a segment; says whether it is to be acknowledged at once, because it was out of order or has filled a gap (RFC
    /// 5681 section 4.2).
    fn take(&mut self, from: u32, to: u32) -> bool {
        let is_in_order = from <= self.next && self.rest.is_empty();
        self.rest.push((from, to));
        while let Some(&(_, to)) = self.rest.iter().find(|(from, to)| *from <= self.next && *to > self.next) {
            self.next = to;
        }
        let next = self.next;
        self.rest.retain(|(_, to)| *to > next);
        !is_in_order
    }
}

/// Turns, with loss, repetition and reordering before the place where this host sees them; the truth is known.
fn run(talk: Talk, is_server: bool, first: [u32; 2], turns: &[(Way, Way)]) {
    let mut it = Conversation { first, ..Conversation::new(talk, is_server) };
    let mut received = Received { next: 0, rest: Vec::new() };
    let (mut asked, mut said) = (0, 0);
    // What may be sent again later: from, to, and the beginning of what it is part of.
    let (mut old_request, mut old_answer) = (Vec::new(), Vec::new());
    for (request, answer) in turns {
        let cuts = request.cuts(asked);
        let begin = asked;
        asked = cuts.last().expect("at least one").1;
        let mut waits = request.waits.iter().cycle();
        let mut there = None;
        // A server sees them as they arrive, of HTTP/1 the beginning first; a client as it sends them, and sends them again.
        let order = if is_server { request.arrivals(talk == Talk::Http1) } else { request.in_order() };
        let mut order: Vec<_> = order.into_iter().map(|number| (cuts[number], begin)).collect();
        let again: Vec<_> = request.order.iter().map(|number| (cuts[number % cuts.len()], begin)).collect();
        if !is_server {
            order.extend(again);
        }
        for (at, ((from, to, push), begin)) in order.iter().enumerate() {
            it.after(*waits.next().expect("for ever"));
            it.ask(*from, *to, said, if *push { PSH } else { 0 }, from == begin);
            let is_urgent = received.take(*from, *to);
            if received.next == asked && there.is_none() {
                there = Some(it.now);
            }
            // A client sees acknowledgements of what has arrived, whatever that is; they may be late.
            if is_server && (is_urgent || at % 3 == 0) {
                it.acknowledge(received.next);
            }
            // From before come those that were on their way for long, from either side.
            if let Some(((from, to, push), begin)) = old_request.pop() {
                it.ask(from, to, said, if push { PSH } else { 0 }, from == begin);
                if is_server {
                    it.acknowledge(received.next);
                }
            }
            if let Some(((from, to, _), begin)) = old_answer.pop() {
                it.say(from, to, received.next, if from == begin { 200 } else { 0 });
            }
            it.expect(&[]);
        }
        let there = there.expect("all has arrived");
        old_request = request.late.iter().map(|number| (cuts[number % cuts.len()], begin)).collect();

        let cuts = answer.cuts(said);
        let begin = said;
        said = cuts.last().expect("at least one").1;
        let mut waits = answer.waits.iter().cycle();
        let order = if is_server { answer.in_order() } else { answer.arrivals(false) };
        let mut truth = None;
        for number in order {
            it.after(*waits.next().expect("for ever"));
            let (from, to, _) = cuts[number];
            it.say(from, to, asked, if from == begin { 200 } else { 0 });
            if truth.is_none() && (talk == Talk::Stream || from == begin) {
                truth = Some(it.now - there);
                it.expect(&truth.map_or([0], |truth| [truth]));
            }
            if let Some(((from, to, push), begin)) = old_request.pop() {
                it.ask(from, to, begin, if push { PSH } else { 0 }, from == begin);
            }
            it.expect(&[]);
        }
        assert!(!it.waits());
        old_answer = answer.late.iter().map(|number| (cuts[number % cuts.len()], begin)).collect();
    }
    assert_eq!((it.requests, it.flow.responses), (turns.len(), turns.len() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_time_is_true_whatever_is_lost_repeated_or_late(
        turns in prop::collection::vec((way(), way()), 1..8),
        first in prop::array::uniform2(prop_oneof![any::<u32>(), (u32::MAX - 20_000)..]),
        is_http in any::<bool>(),
        is_server in any::<bool>(),
    ) {
        run(if is_http { Talk::Http1 } else { Talk::Stream }, is_server, first, &turns);
    }

    /// Whatever passes, however little sense it makes: there are no more answers than requests, and nothing panics.
    #[test]
    fn there_are_never_more_answers_than_requests(
        segments in prop::collection::vec((any::<bool>(), 0_u32..300, 0_u32..200, 0_u32..300, any::<u8>(), 0_u16..600), 0..60),
        kind in 0_usize..3,
        is_server in any::<bool>(),
    ) {
        let talk = [Talk::Stream, Talk::Http1, Talk::Datagrams][kind];
        let mut it = Conversation::new(talk, is_server);
        let mut most = 0;
        for (is_request, sequence, payload, acknowledged, flags, status) in segments {
            it.after(SECOND);
            if is_request {
                most += usize::from(payload > 0);
                it.ask(sequence, sequence + payload, acknowledged, flags, flags % 2 == 0);
            } else {
                it.say(sequence, sequence + payload, acknowledged, if status < 100 { 0 } else { status });
            }
            prop_assert!(it.samples.len() <= most);
            prop_assert!(it.samples.iter().all(|sample| *sample <= it.now - START + UNIT));
            // SAFETY: nobody else has the flow.
            let turns = unsafe { Flow::turns(&raw const it.flow) };
            prop_assert!(turns as u32 >= (turns >> 32) as u32, "more were answered than were asked");
        }
    }
}

/// A flow that several threads write to.
struct Shared(UnsafeCell<Flow>);

// SAFETY: the flow is written to by `Flow`'s methods alone.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Self {
        Self(UnsafeCell::new(Flow::new(ApiSlot(1), 0, 0)))
    }

    fn get(&self) -> *mut Flow {
        self.0.get()
    }
}

/// Threads that do something round by round, all at once or nearly so; each is told its number and the round.
fn at_once(threads: usize, rounds: usize, work: impl Fn(usize, usize) + Sync) {
    let arrived = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (arrived, work) = (&arrived, &work);
            scope.spawn(move || {
                for round in 0..rounds {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let mut spins = 0;
                    while arrived.load(Ordering::SeqCst) < (round + 1) * threads {
                        spins += 1;
                        if spins % 1000 == 0 { thread::yield_now() } else { hint::spin_loop() }
                    }
                    for _ in 0..(round * (2 * thread + 1)) % 16 {
                        hint::spin_loop();
                    }
                    work(thread, round);
                }
            });
        }
    });
}

#[test]
fn an_answer_that_two_see_at_once_is_one() {
    const ROUNDS: usize = 50_000;
    for talk in [Talk::Stream, Talk::Http1, Talk::Datagrams] {
        for is_pipelined in [false, talk == Talk::Http1] {
            let flow = Shared::new();
            let (samples, responses) = (AtomicUsize::new(0), AtomicUsize::new(0));
            at_once(2, 2 * ROUNDS, |thread, round| {
                let flow = flow.get();
                let turn = (round / 2) as u32;
                let sequence = if talk == Talk::Datagrams { turn % 65_536 } else { turn * 10 };
                if round % 2 == 0 {
                    let segment = segment(sequence, 10, turn, PSH);
                    if thread == 0 {
                        // SAFETY: it is written to by `Flow`'s methods alone.
                        unsafe { Flow::ask(flow, &segment, talk, true, true, || START) };
                        if is_pipelined && turn == 0 {
                            let next = Segment { sequence: 10, ..segment };
                            // SAFETY: as above.
                            unsafe { Flow::ask(flow, &next, talk, true, true, || START) };
                        }
                    }
                } else {
                    let number = if talk == Talk::Datagrams { sequence } else { turn };
                    let segment = segment(number, 1, (turn + 2) * 10, PSH);
                    // SAFETY: as above.
                    let (sample, is_new) = unsafe { Flow::answer(flow, &segment, talk, 200, || START + SECOND) };
                    samples.fetch_add(sample.is_some().into(), Ordering::Relaxed);
                    responses.fetch_add(is_new.into(), Ordering::Relaxed);
                }
            });
            assert_eq!(samples.into_inner(), ROUNDS, "{talk:?}");
            assert_eq!(responses.into_inner(), if talk == Talk::Http1 { ROUNDS } else { 0 });
            let flow = flow.0.into_inner();
            assert_eq!(flow.responses, ROUNDS as u64);
        }
    }
}

#[test]
fn a_request_that_two_see_at_once_is_one() {
    const ROUNDS: usize = 50_000;
    for talk in [Talk::Stream, Talk::Http1] {
        let flow = Shared::new();
        let (samples, requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
        at_once(2, 2 * ROUNDS, |thread, round| {
            let flow = flow.get();
            let turn = (round / 2) as u32;
            if round % 2 == 0 {
                let segment = segment(turn * 10, 10, turn, PSH);
                // SAFETY: as above.
                let is_new = unsafe { Flow::ask(flow, &segment, talk, true, true, || START) };
                requests.fetch_add(is_new.into(), Ordering::Relaxed);
            } else if thread == 0 {
                let segment = segment(turn, 1, (turn + 1) * 10, PSH);
                // SAFETY: as above.
                let (sample, _) = unsafe { Flow::answer(flow, &segment, talk, 200, || START + SECOND) };
                samples.fetch_add(sample.is_some().into(), Ordering::Relaxed);
            }
        });
        assert_eq!((samples.into_inner(), requests.into_inner()), (ROUNDS, ROUNDS), "{talk:?}");
    }
}

#[test]
fn one_asks_while_the_other_answers() {
    const ROUNDS: usize = 50_000;
    for talk in [Talk::Stream, Talk::Http1, Talk::Datagrams] {
        let flow = Shared::new();
        let (asked, said) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (flow, asked, said) = (&flow, &asked, &said);
        let wait = |counter: &AtomicUsize, least: usize| {
            let mut spins = 0;
            while counter.load(Ordering::SeqCst) < least {
                spins += 1;
                if spins % 1000 == 0 { thread::yield_now() } else { hint::spin_loop() }
            }
        };
        // Of several that wait, HTTP/1 and datagrams have an answer each.
        let ahead = if talk == Talk::Stream { 1 } else { PENDING - 1 };
        thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..ROUNDS {
                    wait(said, (turn + 1).saturating_sub(ahead));
                    let sequence = if talk == Talk::Datagrams { turn % 65_536 } else { turn * 10 };
                    let segment = segment(sequence as u32, 10, said.load(Ordering::SeqCst) as u32, PSH);
                    // SAFETY: as above.
                    unsafe { Flow::ask(flow.get(), &segment, talk, true, true, || START) };
                    asked.store(turn + 1, Ordering::SeqCst);
                }
            });
            for turn in 0..ROUNDS {
                wait(asked, turn + 1);
                let received = asked.load(Ordering::SeqCst) as u32 * 10;
                let sequence = if talk == Talk::Datagrams { turn % 65_536 } else { turn };
                let segment = segment(sequence as u32, 1, received, PSH);
                // SAFETY: as above.
                let (sample, _) = unsafe { Flow::answer(flow.get(), &segment, talk, 200, || START + SECOND) };
                assert!(sample.is_some_and(|sample| is_near(sample, SECOND)), "{talk:?}, {turn}: {sample:?}");
                said.store(turn + 1, Ordering::SeqCst);
            }
        });
    }
}

//! Frames of every shape, by `BPF_PROG_TEST_RUN`.

use tidewaiter_tests::refuser::{Refuser, Way};

#[test]
fn loads() {
    for way in [Way::Frame, Way::Buffer, Way::Both] {
        let mut refuser = Refuser::load(way);
        let mut frame = vec![0; 100];
        println!("{way:?} {}", refuser.run(&mut frame));
    }
}

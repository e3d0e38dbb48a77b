//! The programs of the kernel side that refuse whatever they can, for tests alone.

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, XdpMode, tc::TcAttachOptions,
    },
};
use tidewaiter_common::{
    ALWAYS_REJECT, ALWAYS_REJECT_BUFFER, ALWAYS_RESET_BOTH,
    frame::Framing,
    interface::{InterfaceEntry, InterfaceSlot, interface_places},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../exporter/bpf/tidewaiter.bpf.o");

/// Where packets are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Frames, before the stack sees them.
    Frame,
    /// Received socket buffers.
    Buffer,
    /// Established connections at both ends, with their first payload.
    Both,
}

impl Way {
    const fn program(self) -> &'static str {
        match self {
            Self::Frame => ALWAYS_REJECT,
            Self::Buffer => ALWAYS_REJECT_BUFFER,
            Self::Both => ALWAYS_RESET_BOTH,
        }
    }
}

/// One of the programs, loaded. What it is attached to it leaves when this is dropped.
#[derive(Debug)]
pub struct Refuser {
    ebpf: Ebpf,
    way: Way,
}

impl Refuser {
    /// Loads the program.
    #[must_use]
    pub fn load(way: Way) -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("can be read");
        let program = ebpf.program_mut(way.program()).expect("is there");
        match way {
            Way::Frame => <&mut Xdp>::try_from(program).expect("is XDP").load(),
            Way::Buffer | Way::Both => <&mut SchedClassifier>::try_from(program).expect("is of TC").load(),
        }
        .unwrap_or_else(|error| panic!("the kernel refuses {way:?}: {error:?}"));
        Self { ebpf, way }
    }

    /// Loads the program, and attaches it to the interface called `name` of the thread's namespace.
    #[must_use]
    pub fn attach(way: Way, name: &str) -> Self {
        let mut refuser = Self::load(way);
        match way {
            Way::Frame => {
                refuser.frames().attach(name, XdpMode::Driver).expect("the device takes it");
            }
            Way::Buffer | Way::Both => {
                let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                refuser.buffers().attach_with_options(name, TcAttachType::Ingress, first).expect("is attached");
            }
        }
        refuser
    }

    /// Tells the program that frames of the interface with `index` begin with their IP header.
    pub fn has_no_link_layer(&mut self, index: u32) {
        let entry = InterfaceEntry { index, slot: InterfaceSlot::GONE.0, framing: Framing::Ip as u8, guarded: 0 };
        let place = interface_places(index).next().expect("there are some");
        let slots = self.ebpf.map_mut("INTERFACE_SLOTS").expect("is there");
        Array::try_from(slots).and_then(|mut slots| slots.set(place, entry, 0)).expect("is written");
    }

    /// Runs the program on `frame`, which its result takes the place of. Answers with the verdict.
    pub fn run(&mut self, frame: &mut Vec<u8>) -> u32 {
        // Answers are a little longer than their questions. The kernel reads the frame before it writes this.
        let mut result = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut result), ..TestRunOptions::new() };
        let run = match self.way {
            Way::Frame => self.frames().test_run(options),
            Way::Buffer | Way::Both => self.buffers().test_run(options),
        }
        .expect("the kernel takes the frame");
        let (length, verdict) = (run.data_size_out as usize, run.return_value);
        result.truncate(length);
        *frame = result;
        verdict
    }

    fn frames(&mut self) -> &mut Xdp {
        self.ebpf.program_mut(self.way.program()).and_then(|program| program.try_into().ok()).expect("is XDP")
    }

    fn buffers(&mut self) -> &mut SchedClassifier {
        self.ebpf.program_mut(self.way.program()).and_then(|program| program.try_into().ok()).expect("is of TC")
    }
}

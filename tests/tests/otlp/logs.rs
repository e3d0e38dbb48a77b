//! Log records: one for each anomaly.

use std::{net::UdpSocket, time::SystemTime};

use tidewaiter_tests::{
    collector::{Collector, attribute},
    exporter::Exporter,
    network::{Network, Offload},
};

use super::{PROTOCOLS, configuration, nanoseconds};

#[test]
fn an_anomaly_is_a_log_record() {
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let collector = Collector::new(&network.server);
        let _exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        let before = SystemTime::now();
        let port = network.client.run(|| {
            let socket = UdpSocket::bind((Network::CLIENT4, 0)).unwrap();
            socket.send_to(b"SSH-2.0-nonsense\r\n", (Network::SERVER4, 53)).unwrap();
            socket.local_addr().unwrap().port()
        });
        let mut logs = collector.wait_for_logs(2);
        assert_eq!(logs[0].1.event_name, "tidewaiter.started");
        assert_eq!(logs[0].1.severity_text, "INFO");
        let (resource, record) = logs.remove(1);
        assert_eq!(record.event_name, "tidewaiter.anomaly.unexpected_payload");
        assert_eq!((record.severity_text.as_str(), record.severity_number), ("WARN", 13));
        let time = nanoseconds(before)..=nanoseconds(SystemTime::now());
        assert!(time.contains(&record.time_unix_nano));
        for (key, value) in [
            ("tidewaiter.api", "names".to_owned()),
            ("tidewaiter.anomaly.kind", "unexpected_payload".to_owned()),
            ("client.address", Network::CLIENT4.to_string()),
            ("client.port", port.to_string()),
            ("server.port", "53".to_owned()),
            ("tidewaiter.payload.first_bytes", "SSH-2.0-nonsense\\r\\n".to_owned()),
        ] {
            assert_eq!(attribute(&record.attributes, key), Some(value), "{key}");
        }
        assert!(attribute(&resource.attributes, "service.instance.id").is_some());
    }
}

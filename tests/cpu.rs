//! The portable backend against naive f64.

testkit::suite!(testkit::Cpu);

//! The command line of MEPTR.

fn main() {}

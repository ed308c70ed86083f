//! Hand-written pickles: every family of opcodes, and every lie, named for what it tells.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// The value a pickle stands for, as nested text, to compare whole pickles at a glance.
fn shown(objects: &Objects, id: NodeId) -> String {
    let list =
        |items: &[NodeId]| items.iter().map(|&item| shown(objects, item)).collect::<Vec<_>>().join(" ");
    let dict = |entries: &[(NodeId, NodeId)]| {
        entries
            .iter()
            .map(|&(key, value)| format!("{}:{}", shown(objects, key), shown(objects, value)))
            .collect::<Vec<_>>()
    };
    match objects.node(id) {
        Node::None => "None".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Int(value) => value.to_string(),
        Node::BigInt(span) => format!("big {}..{}", span.start, span.end),
        Node::Float(value) => format!("{value:?}"),
        Node::Text(text) => format!("{text:?}"),
        Node::Bytes { length, start } => format!("b{:?}", &start[..*length as usize]),
        Node::Tensor(index) => format!("tensor {index}"),
        Node::List(items) => format!("[{}]", list(items)),
        Node::Tuple(items) => format!("({})", list(items)),
        Node::Set(items) => format!("<{}>", list(items)),
        Node::Dict(entries) => format!("{{{}}}", dict(entries).join(" ")),
        Node::Global(global) => format!("{}/{}", global.module, global.name),
        Node::Object(object) => {
            let state =
                object.state.map(|state| format!(" state {}", shown(objects, state))).unwrap_or_default();
            let call = format!(
                "call {} {}{state}",
                shown(objects, object.callable),
                shown(objects, object.arguments)
            );
            match (object.items.as_slice(), object.entries.as_slice()) {
                ([], []) => call,
                (items, []) => format!("{call} items {}", list(items)),
                ([], entries) => format!("{call} entries {}", dict(entries).join(" ")),
                (items, entries) => {
                    format!("{call} items {} entries {}", list(items), dict(entries).join(" "))
                }
            }
        }
        Node::Persistent(id) => format!("persistent {}", shown(objects, *id)),
        Node::OutOfBand => "out of band".to_owned(),
    }
}

fn read(bytes: &[u8]) -> Pickle {
    super::read(bytes, bytes.len() as u64)
}

#[track_caller]
fn assert_reads(bytes: &[u8], expected: &str) -> Pickle {
    let pickle = read(bytes);
    assert_eq!(pickle.error, None);
    let root = pickle.objects.root.expect("a pickle without an error has a root");
    assert_eq!(shown(&pickle.objects, root), expected);
    assert_eq!(pickle.length, bytes.len() as u64);
    pickle
}

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &ErrorKind, offset: u64) -> Pickle {
    let pickle = read(bytes);
    assert_eq!(pickle.error, Some(Fault { kind: expected.clone(), offset }));
    assert_eq!(pickle.objects.root, None);
    pickle
}

fn named(pickle: &Pickle) -> Vec<(String, Danger, bool)> {
    let path = |used: &GlobalUse| format!("{}.{}", used.global.module, used.global.name);
    pickle.globals.iter().map(|used| (path(used), used.danger, used.called)).collect()
}

fn argument(opcode: &'static str, message: &'static str) -> ErrorKind {
    ErrorKind::PickleArgument { opcode, message }
}

/// `count` times the same bytes, between a beginning and an end.
fn repeated(start: &[u8], middle: &[u8], count: usize, end: &[u8]) -> Vec<u8> {
    [start, &middle.repeat(count), end].concat()
}

#[test]
fn every_opcode_has_its_own_byte_and_name() {
    let bytes = super::opcode::Opcode::ALL;
    assert_eq!(bytes.len(), 68, "pickletools lists 68 opcodes up to protocol 5");
    for &(byte, opcode) in bytes {
        assert_eq!(super::opcode::Opcode::from_byte(byte), Some(opcode));
        assert_eq!(
            bytes.iter().filter(|(_, other)| other.name() == opcode.name()).count(),
            1,
            "{}",
            opcode.name()
        );
    }
}

#[test]
fn constants_and_numbers() {
    assert_reads(b"N.", "None");
    assert_reads(b"\x80\x02\x88.", "true");
    assert_reads(b"\x89.", "false");
    assert_reads(b"I01\n.", "true");
    assert_reads(b"I00\n.", "false");
    assert_reads(b"I-42\n.", "-42");
    assert_reads(b"L7L\n.", "7");
    assert_reads(b"J\xff\xff\xff\xff.", "-1");
    assert_reads(b"K\xff.", "255");
    assert_reads(b"M\x00\x01.", "256");
    assert_reads(b"\x8a\x00.", "0");
    assert_reads(b"\x8a\x02\xff\x7f.", "32767");
    assert_reads(b"\x8b\x01\x00\x00\x00\x80.", "-128");
    assert_reads(b"F1.5\n.", "1.5");
    assert_reads(b"Fnan\n.", "NaN");
    assert_reads(b"G\x3f\xf8\0\0\0\0\0\0.", "1.5");
}

#[test]
fn integers_that_do_not_fit_keep_the_place_of_their_digits() {
    assert_reads(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "big 2..12");
    assert_reads(b"L123456789012345678901L\n.", "big 1..23");
}

#[test]
fn numbers_keep_the_place_of_their_opcode() {
    let pickle = assert_reads(b"(K\x05G\x3f\xf8\0\0\0\0\0\0t.", "(5 1.5)");
    let root = pickle.objects.root.expect("a root");
    let items = pickle.objects.sequence(root).expect("a tuple").to_vec();
    assert_eq!(pickle.objects.spans[items[0]], Span { start: 1, end: 3 });
    assert_eq!(pickle.objects.spans[items[1]], Span { start: 3, end: 12 });
    assert_eq!(pickle.objects.spans.len(), pickle.objects.nodes.len());
}

#[test]
fn text_and_bytes() {
    assert_reads(b"X\x02\0\0\0hi.", "\"hi\"");
    assert_reads(b"\x8c\x02hi.", "\"hi\"");
    assert_reads(b"\x8d\x02\0\0\0\0\0\0\0hi.", "\"hi\"");
    assert_reads(b"Vna\xefve\n.", "\"naïve\"");
    assert_reads(b"S'it\\'s'\n.", "\"it's\"");
    assert_reads(b"U\x01\xff.", "b[255]");
    assert_reads(b"T\x02\0\0\0ok.", "\"ok\"");
    assert_reads(b"B\x01\0\0\0a.", "b[97]");
    assert_reads(b"C\x01a.", "b[97]");
    assert_reads(b"\x8e\x01\0\0\0\0\0\0\0a.", "b[97]");
    assert_reads(b"\x96\x01\0\0\0\0\0\0\0a.", "b[97]");
    assert_reads(b"\x97\x98.", "out of band");
}

#[test]
fn text_that_is_not_utf_8_is_read_on_so_that_nothing_hides_behind_it() {
    let pickle = assert_reads(
        b"(X\x03\0\0\0\xed\xa0\x80cposix\nsystem\nt.",
        "(\"\u{fffd}\u{fffd}\u{fffd}\" posix/system)",
    );
    assert_eq!(named(&pickle).len(), 1);
}

#[test]
fn containers() {
    assert_reads(b"(].", "[]");
    assert_reads(b"(K\x01K\x02l.", "[1 2]");
    assert_reads(b"]K\x01a(K\x02K\x03e.", "[1 2 3]");
    assert_reads(b").", "()");
    assert_reads(b"(K\x01t.", "(1)");
    assert_reads(b"K\x01\x85.", "(1)");
    assert_reads(b"K\x01K\x02\x86.", "(1 2)");
    assert_reads(b"K\x01K\x02K\x03\x87.", "(1 2 3)");
    assert_reads(b"}K\x01Ns.", "{1:None}");
    assert_reads(b"}(K\x01NK\x02Nu.", "{1:None 2:None}");
    assert_reads(b"(K\x01Nd.", "{1:None}");
    assert_reads(b"\x8f(K\x01\x90.", "<1>");
    assert_reads(b"(K\x01\x91.", "<1>");
}

#[test]
fn the_stack_and_the_memo() {
    assert_reads(b"K\x01K\x020.", "1");
    assert_reads(b"K\x01(K\x02K\x031.", "1");
    assert_reads(b"(0K\x01.", "1");
    assert_reads(b"K\x012\x86.", "(1 1)");
    assert_reads(b"K\x01p300\n0g300\n.", "1");
    assert_reads(b"K\x01q\x050h\x05.", "1");
    assert_reads(b"K\x01r\x01\x02\0\x800j\x01\x02\0\x80.", "1");
    assert_reads(b"K\x01\x94K\x02\x9400h\x01h\x00\x86.", "(2 1)");
    assert_reads(b"\x95\x02\0\0\0\0\0\0\0K\x01.", "1");
}

#[test]
fn calls_and_states() {
    assert_reads(
        b"ccollections\nOrderedDict\n)R}K\x01Nsb(K\x02Nu.",
        "call collections/OrderedDict () state {1:None} entries 2:None",
    );
    assert_reads(b"ca\nB\n)\x81K\x01a.", "call a/B () items 1");
    assert_reads(b"ca\nB\n)}\x92.", "call a/B (() {})");
    assert_reads(b"(ca\nB\nK\x01o.", "call a/B (1)");
    assert_reads(b"(K\x01ia\nB\n.", "call a/B (1)");
    assert_reads(b"ca\nB\n)RK\x01bK\x02b.", "call a/B () state (1 2)");
    assert_reads(b"\x8c\x01a\x8c\x01B\x93.", "a/B");
    assert_reads(b"\x82\x07.", "copyreg/extension 7");
    assert_reads(b"\x83\x07\x01.", "copyreg/extension 263");
    assert_reads(b"\x84\x07\0\0\x01.", "copyreg/extension 16777223");
    assert_reads(b"P17\n.", "persistent \"17\"");
    assert_reads(b"K\x01Q.", "persistent 1");
}

#[test]
fn a_pickle_followed_by_another_says_where_it_ends() {
    let pickle = read(b"K\x01.K\x02.");
    assert_eq!((pickle.length, pickle.error), (3, None));
}

#[test]
fn a_system_call_is_found_by_each_opcode_that_makes_one() {
    let called = [("posix.system".to_owned(), Danger::Dangerous, true)];
    for bytes in [
        &b"cposix\nsystem\nX\x01\0\0\0x\x85R."[..],
        b"\x8c\x05posix\x8c\x06system\x93)R.",
        b"(cposix\nsystem\nX\x01\0\0\0xo.",
        b"(X\x01\0\0\0xiposix\nsystem\n.",
        b"cposix\nsystem\n)\x81.",
        b"cposix\nsystem\n)}\x92.",
        b"cposix\nsystem\nq\x000h\x00)R.",
        b"cposix\nsystem\n2)R.",
    ] {
        let pickle = read(bytes);
        assert_eq!(pickle.error, None);
        assert_eq!(named(&pickle), called, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_call_named_through_the_memo_is_found_whatever_strings_stand_near() {
    let pickle = read(b"\x8c\x06system\x94\x8c\x05posix\x9400h\x01h\x00\x8c\x05torch0\x8c\x04Size0\x93)R.");
    assert_eq!(named(&pickle), [("posix.system".to_owned(), Danger::Dangerous, true)]);
}

#[test]
fn a_name_that_loading_would_compute_is_dangerous() {
    let pickle = read(b"\x8c\x05posixcmine\njoin\n)R\x93)R.");
    let found = named(&pickle);
    assert!(found.contains(&("posix.(computed)".to_owned(), Danger::Dangerous, true)), "{found:?}");
    assert!(found.contains(&("mine.join".to_owned(), Danger::Unknown, true)), "{found:?}");
}

#[test]
fn setting_attributes_of_an_allowed_function_is_dangerous() {
    let pickle = read(b"ctorch._utils\n_rebuild_tensor_v2\n}K\x01Nsb.");
    assert_eq!(named(&pickle), [("torch._utils._rebuild_tensor_v2".to_owned(), Danger::Dangerous, false)]);
}

#[test]
fn extension_codes_are_reported_since_their_meaning_is_not_in_the_file() {
    let pickle = read(b"\x82\x07)R.");
    assert_eq!(named(&pickle), [("copyreg.extension 7".to_owned(), Danger::Unknown, true)]);
    assert_refused(b"\x82\x00.", &argument("EXT1", "the extension code is not positive"), 0);
    assert_refused(b"\x84\xff\xff\xff\xff.", &argument("EXT4", "the extension code is not positive"), 0);
}

#[test]
fn one_global_named_often_is_one_finding() {
    let pickle = read(b"(ca\nB\nca\nB\n)Rt.");
    assert_eq!(named(&pickle), [("a.B".to_owned(), Danger::Unknown, true)]);
    assert_eq!(pickle.globals[0].offset, 1);
}

#[test]
fn an_error_keeps_what_was_found_before_it() {
    let memo = assert_refused(b"cposix\nsystem\n)Rh\x07.", &ErrorKind::PickleMemo { index: 7 }, 16);
    assert_eq!(named(&memo), [("posix.system".to_owned(), Danger::Dangerous, true)]);
    let opcode = assert_refused(b"cos\nsystem\n\xfe.", &ErrorKind::PickleOpcode { byte: 0xfe }, 11);
    assert_eq!(named(&opcode), [("os.system".to_owned(), Danger::Dangerous, false)]);
}

#[test]
fn claims_a_protocol_that_does_not_exist() {
    assert_refused(b"\x80\x09N.", &ErrorKind::PickleProtocol { protocol: 9 }, 0);
}

#[test]
fn claims_values_that_are_not_on_the_stack() {
    let empty = |opcode| ErrorKind::PickleStack { opcode };
    assert_refused(b".", &empty("STOP"), 0);
    assert_refused(b"0", &empty("POP"), 0);
    assert_refused(b"2", &empty("DUP"), 0);
    assert_refused(b"NR", &empty("REDUCE"), 1);
    assert_refused(b"K\x01\x86", &empty("TUPLE2"), 2);
    assert_refused(b"(o", &empty("OBJ"), 1);
    assert_refused(b"N(\x85", &empty("TUPLE1"), 2);
    assert_refused(b"N(.", &empty("STOP"), 2);
    assert_refused(b"(q\x00", &empty("BINPUT"), 1);
    assert_refused(b"\x98", &empty("READONLY_BUFFER"), 0);
}

#[test]
fn claims_a_mark_that_was_never_set() {
    for (bytes, opcode) in
        [(b"t", "TUPLE"), (b"l", "LIST"), (b"d", "DICT"), (b"1", "POP_MARK"), (b"u", "SETITEMS")]
    {
        assert_refused(bytes, &ErrorKind::PickleMark { opcode }, 0);
    }
}

#[test]
fn claims_lengths_beyond_the_end() {
    let short = |needed| ErrorKind::PickleTruncated { needed };
    assert_refused(b"", &short(1), 0);
    assert_refused(b"N", &short(1), 1);
    assert_refused(b"X\xff\xff\xff\xffabc", &short(u64::from(u32::MAX) - 3), 0);
    assert_refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", &short(u64::MAX), 0);
    assert_refused(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffa", &short(u64::MAX - 1), 0);
    assert_refused(b"\x96\x01\0\0\0\0\0\0\0", &short(1), 0);
    assert_refused(b"\x95\xff\0\0\0\0\0\0\0N.", &short(253), 0);
    assert_refused(b"\x8a\xff\x01", &short(254), 0);
    assert_refused(b"cposix", &short(1), 0);
    assert_refused(b"I12", &short(1), 0);
}

#[test]
fn claims_negative_lengths() {
    assert_refused(b"\x8b\xff\xff\xff\xff", &argument("LONG4", "the length is negative"), 0);
    assert_refused(b"T\xff\xff\xff\xff", &argument("BINSTRING", "the length is negative"), 0);
}

#[test]
fn a_long_of_255_bytes_is_an_integer_like_any_other() {
    let bytes = [&b"\x8a\xff"[..], &[0x11; 255], b"."].concat();
    assert_reads(&bytes, "big 2..257");
}

#[test]
fn malformed_literals() {
    assert_refused(b"Ione\n.", &argument("INT", "not a number"), 0);
    assert_refused(b"Fone\n.", &argument("FLOAT", "not a number"), 0);
    assert_refused(b"S'x\n.", &argument("STRING", "the quotes do not match"), 0);
    assert_refused(b"g-1\n.", &argument("GET", "not an index"), 0);
}

#[test]
fn operands_of_the_wrong_kind() {
    assert_refused(b"K\x01K\x02a", &argument("APPEND", "nothing can be appended to what lies below"), 4);
    assert_refused(b"]K\x01K\x02s", &argument("SETITEM", "no items can be set on what lies below"), 5);
    assert_refused(b"](K\x01d", &argument("DICT", "a key has no value"), 4);
    assert_refused(b"}(K\x01u", &argument("SETITEMS", "a key has no value"), 4);
    assert_refused(b"K\x01}b", &argument("BUILD", "no state can be set on what lies below"), 3);
    assert_refused(
        b"K\x01K\x02\x93",
        &argument("STACK_GLOBAL", "module and name are not text of at most 4096 bytes"),
        4,
    );
}

#[test]
fn a_sparse_memo_costs_one_entry() {
    assert_reads(b"Nr\xff\xff\xff\x7f0j\xff\xff\xff\x7f.", "None");
    assert_reads(b"Np18446744073709551615\n0g18446744073709551615\n.", "None");
}

#[test]
fn memorised_out_of_order_is_found_where_it_was_put() {
    assert_reads(b"K\x05q\x01K\x06q\x00K\x07\x94000h\x00h\x01h\x02\x87.", "(6 5 7)");
    assert_reads(b"K\x05\x94K\x06q\x0000h\x00.", "6");
}

#[test]
fn containers_that_hold_themselves_are_held_and_dropped() {
    for bytes in [&b"]q\x00h\x00a."[..], b"}q\x00K\x01h\x00s.", b"]q\x00(h\x00te."] {
        drop(read(bytes));
    }
    assert_eq!(read(b"]q\x00h\x00a.").error, None);
}

#[test]
fn two_hundred_thousand_levels_of_nesting_need_no_call_stack() {
    let pickle = read(&repeated(b"]", b"]", 200_000, &[&b"a".repeat(200_000)[..], b"."].concat()));
    assert_eq!(pickle.error, None);
    assert_eq!(pickle.objects.nodes.len(), 200_001 + 4);
    let pickle = read(&repeated(b")", b"\x85", 200_000, b"."));
    assert_eq!(pickle.error, None);
}

#[test]
fn four_to_the_thirtieth_elements_by_sharing_are_thirty_nodes() {
    let level = b"q\x000(h\x00h\x00h\x00h\x00l";
    let pickle = read(&repeated(b"]", level, 30, b"."));
    assert_eq!(pickle.error, None);
    assert_eq!(pickle.objects.nodes.len(), 31 + 4);
}

#[test]
fn a_value_costs_what_the_limit_counts_on() {
    assert_eq!(size_of::<Node>() + size_of::<Span>(), 40);
}

#[test]
fn more_values_than_any_checkpoint_has_are_refused_before_memory_is() {
    // Each of these repeats the cheapest way to make one kind of value.
    let programs: [&[u8]; 12] = [
        b"N", b"(", b"]", b"N\x85", b"K\x01", b"}NNs", b"]Na", b"U\x01a", b"NR", b"\x94", b"ca\nb\n", b"NNt(",
    ];
    for program in programs {
        let pickle = read(&repeated(b"((N", program, MAX_HELD as usize / 7, b"."));
        let kind = pickle.error.map(|fault| fault.kind);
        let refused = matches!(kind, Some(ErrorKind::TooMany { what: "bytes of pickled values", .. }));
        assert!(refused, "{}: {kind:?}", program.escape_ascii());
        let ids = |ids: &Vec<NodeId>| ids.capacity() * size_of::<NodeId>();
        let held: usize = pickle
            .objects
            .nodes
            .iter()
            .map(|node| match node {
                Node::List(items) | Node::Tuple(items) => ids(items),
                Node::Dict(entries) => 2 * size_of::<NodeId>() * entries.capacity(),
                Node::Text(text) => text.capacity(),
                Node::Object(object) => size_of::<Object>() + ids(&object.items),
                _ => 0,
            })
            .sum();
        let held = held + pickle.objects.nodes.len() * (size_of::<Node>() + size_of::<Span>());
        assert!(held as u64 <= MAX_HELD, "{}: {held}", program.escape_ascii());
    }
}

#[test]
fn a_large_file_may_have_a_large_pickle() {
    let bytes = repeated(b"(", b"N", MAX_HELD as usize / 8, b"t.");
    assert!(super::read(&bytes, 0).error.is_some());
    assert_eq!(super::read(&bytes, 64 * 64 * MAX_HELD).error, None);
}

#[test]
fn more_globals_than_any_framework_has_are_refused_before_memory_is() {
    let names =
        (0..=MAX_GLOBALS).flat_map(|index| format!("cm\nN{index}\n").into_bytes()).collect::<Vec<_>>();
    let pickle = read(&names);
    let kind = pickle.error.map(|fault| fault.kind);
    assert_eq!(kind, Some(ErrorKind::TooMany { what: "different globals", limit: MAX_GLOBALS as u64 }));
    assert_eq!(pickle.globals.len(), MAX_GLOBALS);
}

#[test]
fn a_long_name_fetched_from_the_memo_is_not_copied_again_and_again() {
    let bytes = [&b"X\x01\x10\0\0"[..], &[b'x'; 4097], b"\x94h\x00\x93."].concat();
    assert_refused(
        &bytes,
        &argument("STACK_GLOBAL", "module and name are not text of at most 4096 bytes"),
        4105,
    );
}

#[test]
fn small_tuples_after_a_large_stack_are_small() {
    let pickle =
        read(&repeated(&[&b"("[..], &b"N".repeat(1 << 20), b"1"].concat(), b"(K\x01t0", 100_000, b"N."));
    assert_eq!(pickle.error, None);
}

/// How dangerous the only global of `c<module>\n<name>\n(tR.` is, under every protocol that has the opcode.
#[track_caller]
fn assert_danger(module: &str, name: &str, expected: Danger) {
    for protocol in [0, 2, 4] {
        let header: &[u8] = if protocol == 0 { b"" } else { &[0x80, protocol] };
        let pickle = read(&[header, format!("c{module}\n{name}\n(tR.").as_bytes()].concat());
        assert_eq!(named(&pickle), [(format!("{module}.{name}"), expected, true)], "protocol {protocol}");
    }
}

#[test]
fn what_python_2_called_otherwise_is_as_dangerous() {
    for (module, name) in [
        ("commands", "Popen"),
        ("commands", "getoutput"),
        ("commands", "check_output"),
        ("__builtin__", "eval"),
        ("__builtin__", "breakpoint"),
        ("cPickle", "loads"),
        ("StringIO", "open"),
        ("cStringIO", "FileIO"),
        ("urllib2", "urlopen"),
        ("httplib", "HTTPConnection"),
        ("xmlrpclib", "ServerProxy"),
        ("SimpleHTTPServer", "test"),
        ("thread", "start_new_thread"),
        ("_winreg", "SetValue"),
        ("anydbm", "open"),
        ("Tkinter", "Tcl"),
        ("test.test_support", "run_code"),
    ] {
        assert_danger(module, name, Danger::Dangerous);
    }
}

#[test]
fn what_starts_threads_programs_or_source_is_dangerous() {
    for (module, name) in [
        ("multiprocessing.process", "BaseProcess"),
        ("multiprocessing.util", "spawnv_passfds"),
        ("_thread", "start_new_thread"),
        ("asyncio", "create_subprocess_shell"),
        ("pydoc", "pipepager"),
        ("code", "interact"),
        ("codeop", "compile_command"),
        ("timeit", "timeit"),
        ("cProfile", "run"),
        ("pdb", "run"),
        ("bdb", "Bdb"),
        ("doctest", "debug_script"),
        ("trace", "main"),
        ("distutils.spawn", "spawn"),
        ("setuptools", "setup"),
        ("pip._internal", "main"),
        ("ensurepip", "bootstrap"),
        ("venv", "create"),
        ("webbrowser", "open"),
        ("antigravity", "geohash"),
        ("smtplib", "SMTP"),
        ("ftplib", "FTP"),
        ("telnetlib", "Telnet"),
        ("urllib.request", "urlretrieve"),
        ("http.client", "HTTPSConnection"),
        ("requests.api", "get"),
        ("numpy.testing._private.utils", "runstring"),
        ("torch.utils.cpp_extension", "load_inline"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    ] {
        assert_danger(module, name, Danger::Dangerous);
    }
}

#[test]
fn renaming_makes_nothing_of_python_2_dangerous_that_is_not() {
    assert_danger("UserDict", "UserDict", Danger::Unknown);
    assert_danger("exceptions", "ValueError", Danger::Unknown);
    assert_danger("commands_of_mine", "Popen", Danger::Unknown);
    assert_danger("code.models", "Net", Danger::Unknown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_end_in_a_value_or_a_typed_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let pickle = read(&bytes);
        prop_assert_eq!(pickle.error.is_none(), pickle.objects.root.is_some());
        prop_assert_eq!(pickle.objects.spans.len(), pickle.objects.nodes.len());
    }

    #[test]
    fn arbitrary_opcodes_end_in_a_value_or_a_typed_error(
        choices in prop::collection::vec((0..super::opcode::Opcode::ALL.len(), any::<[u8; 2]>()), 0..200),
    ) {
        let bytes = choices.iter().flat_map(|&(index, [one, other])| {
            [super::opcode::Opcode::ALL[index].0, one % 4, other % 4, b'\n']
        }).collect::<Vec<_>>();
        let pickle = read(&bytes);
        let end = bytes.len() as u32;
        prop_assert!(pickle.objects.spans.iter().all(|span| span.start <= span.end && span.end <= end));
    }
}

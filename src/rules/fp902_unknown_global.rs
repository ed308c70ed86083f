//! Classes and functions in a pickle that nobody knows.

use std::collections::BTreeSet;

use super::{Check, Confidence, Findings, Needs, Rule, Severity, Subject, Thresholds};
use crate::analysis::model::{CheckpointAnalysis, Danger, GlobalAnalysis};

pub(super) static RULE: Rule = Rule {
    code: "FP902",
    name: "unknown-global",
    summary: "a pickle names or calls classes or functions that are on no list",
    page: include_str!("../../docs/rules/FP902-unknown-global.md"),
    severity: Severity::Note,
    confidence: Confidence::Exact,
    needs: Needs::LIST,
    thresholds: &[],
    check: Check::Checkpoint(check),
};

/// So many names fit in a sentence.
const NAMED: usize = 5;

fn check(checkpoint: &CheckpointAnalysis, _: &Thresholds, findings: &mut Findings) {
    for severity in [Severity::Critical, Severity::Warning, Severity::Note] {
        let is_so =
            |global: &&GlobalAnalysis| global.danger == Danger::Unknown && severity_of(global) == severity;
        let unknown: Vec<&GlobalAnalysis> = checkpoint.globals.iter().filter(is_so).collect();
        if !unknown.is_empty() {
            report(&unknown, severity, findings);
        }
    }
}

/// What is only named is inert until something calls it. A class of the author's own is called to make an instance, which is how
/// modules and configs are saved. A function that is called runs when the file is loaded; one of the libraries that every
/// loader has, and that no checkpoint needs, is there for what it does.
fn severity_of(global: &GlobalAnalysis) -> Severity {
    let (root, _) = global.global.split_once('.').unwrap_or((&global.global, ""));
    let is_everywhere = STANDARD.contains(&root) || root == "torch" || root == "numpy";
    let name = global.global.rsplit('.').next().unwrap_or_default().trim_start_matches('_');
    let is_class = name.starts_with(char::is_uppercase);
    match (global.called, is_everywhere, is_class) {
        (false, ..) | (true, false, true) => Severity::Note,
        (true, true, false) => Severity::Critical,
        (true, ..) => Severity::Warning,
    }
}

fn report(unknown: &[&GlobalAnalysis], severity: Severity, findings: &mut Findings) {
    let names: BTreeSet<_> = unknown.iter().map(|global| global.global.escape_debug().to_string()).collect();
    let files: BTreeSet<_> = unknown.iter().map(|global| global.file.as_str()).collect();
    let verb = if severity == Severity::Note { "name" } else { "call" };
    let place = match files.iter().collect::<Vec<_>>()[..] {
        [file] => format!("{file} {verb}s"),
        _ => format!("{} files {verb}", files.len()),
    };
    let (list, advice) = match severity {
        Severity::Note => (
            "on no list of harmless globals",
            "they are inert here; load the file elsewhere only if you know where these classes come from",
        ),
        Severity::Warning => (
            "on no list of harmless globals: loading the file runs it",
            "find out what it does before you load the file with pickle or torch.load, or ask its author for safetensors",
        ),
        Severity::Critical => (
            "which no checkpoint needs: loading the file runs it",
            "do not load this file with pickle or torch.load; ask its author for safetensors, or take an earlier copy",
        ),
    };
    let message = format!("{place} {}, {list}", enumerate(&names));
    findings.push(Subject::Checkpoint, message, advice).severity(severity).evidence(
        "unknown globals",
        names.len() as f64,
        "names",
    );
}

/// The first few names, and how many more there are.
fn enumerate(names: &BTreeSet<String>) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{first} and {} more", names.len() - NAMED) } else { first }
}

/// Top-level modules of the standard library: `sys.stdlib_module_names` of CPython 3.11, and what Python 2 called its own.
#[rustfmt::skip]
const STANDARD: &[&str] = &[
    "BaseHTTPServer", "Bastion", "CGIHTTPServer", "ConfigParser", "Cookie", "HTMLParser", "Queue", "SimpleHTTPServer",
    "SocketServer", "StringIO", "Tix", "Tkinter", "UserDict", "UserList", "UserString", "__builtin__", "__future__", "_abc",
    "_aix_support", "_ast", "_asyncio", "_bisect", "_blake2", "_bootsubprocess", "_bz2", "_codecs", "_codecs_cn",
    "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw", "_collections", "_collections_abc",
    "_compat_pickle", "_compression", "_contextvars", "_crypt", "_csv", "_ctypes", "_curses", "_curses_panel", "_datetime",
    "_dbm", "_decimal", "_elementtree", "_frozen_importlib", "_frozen_importlib_external", "_functools", "_gdbm",
    "_hashlib", "_heapq", "_imp", "_io", "_json", "_locale", "_lsprof", "_lzma", "_markupbase", "_md5", "_msi",
    "_multibytecodec", "_multiprocessing", "_opcode", "_operator", "_osx_support", "_overlapped", "_pickle", "_posixshmem",
    "_posixsubprocess", "_py_abc", "_pydecimal", "_pyio", "_queue", "_random", "_scproxy", "_sha1", "_sha256", "_sha3",
    "_sha512", "_signal", "_sitebuiltins", "_socket", "_sqlite3", "_sre", "_ssl", "_stat", "_statistics", "_string",
    "_strptime", "_struct", "_symtable", "_thread", "_threading_local", "_tkinter", "_tokenize", "_tracemalloc", "_typing",
    "_uuid", "_warnings", "_weakref", "_weakrefset", "_winapi", "_winreg", "_zoneinfo", "abc", "aifc", "annotationlib",
    "antigravity", "anydbm", "argparse", "array", "ast", "asynchat", "asyncio", "asyncore", "atexit", "audioop", "base64",
    "bdb", "binascii", "bisect", "builtins", "bz2", "cPickle", "cProfile", "cStringIO", "calendar", "cgi", "cgitb", "chunk",
    "cmath", "cmd", "code", "codecs", "codeop", "collections", "colorsys", "commands", "compileall", "compiler",
    "compression", "concurrent", "configparser", "contextlib", "contextvars", "cookielib", "copy", "copy_reg", "copyreg",
    "crypt", "csv", "ctypes", "curses", "dataclasses", "datetime", "dbhash", "dbm", "decimal", "difflib", "dircache", "dis",
    "distutils", "doctest", "dumbdbm", "dummy_thread", "email", "encodings", "ensurepip", "enum", "errno", "faulthandler",
    "fcntl", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gc", "gdbm", "genericpath", "getopt",
    "getpass", "gettext", "glob", "graphlib", "grp", "gzip", "hashlib", "heapq", "hmac", "html", "htmlentitydefs", "http",
    "httplib", "idlelib", "ihooks", "imaplib", "imghdr", "imp", "importlib", "imputil", "inspect", "io", "ipaddress",
    "itertools", "json", "keyword", "lib2to3", "linecache", "locale", "logging", "lzma", "mailbox", "mailcap", "markupbase",
    "marshal", "math", "md5", "mimetools", "mimetypes", "mmap", "modulefinder", "msilib", "msvcrt", "multifile",
    "multiprocessing", "netrc", "new", "nis", "nntplib", "nt", "ntpath", "nturl2path", "numbers", "opcode", "operator",
    "optparse", "os", "ossaudiodev", "pathlib", "pdb", "pickle", "pickletools", "pipes", "pkgutil", "platform", "plistlib",
    "popen2", "poplib", "posix", "posixpath", "pprint", "profile", "pstats", "pty", "pwd", "py_compile", "pyclbr", "pydoc",
    "pydoc_data", "pyexpat", "queue", "quopri", "random", "re", "readline", "repr", "reprlib", "resource", "rexec",
    "rfc822", "rlcompleter", "robotparser", "runpy", "sched", "secrets", "select", "selectors", "sets", "sha", "shelve",
    "shlex", "shutil", "signal", "site", "smtpd", "smtplib", "sndhdr", "socket", "socketserver", "spwd", "sqlite3",
    "sre_compile", "sre_constants", "sre_parse", "ssl", "stat", "statistics", "string", "stringprep", "struct",
    "subprocess", "sunau", "symtable", "sys", "sysconfig", "syslog", "tabnanny", "tarfile", "telnetlib", "tempfile",
    "termios", "textwrap", "this", "thread", "threading", "time", "timeit", "tkinter", "token", "tokenize", "tomllib",
    "trace", "traceback", "tracemalloc", "ttk", "tty", "turtle", "turtledemo", "types", "typing", "unicodedata", "unittest",
    "urllib", "urllib2", "urlparse", "user", "uu", "uuid", "venv", "warnings", "wave", "weakref", "webbrowser", "whichdb",
    "winreg", "winsound", "wsgiref", "xdrlib", "xml", "xmlrpc", "xmlrpclib", "zipapp", "zipfile", "zipimport", "zlib",
    "zoneinfo",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{checkpoint, global, judge};

    fn told(name: &str, called: bool) -> Vec<(Severity, String)> {
        let mut saved = checkpoint(Vec::new());
        saved.globals = vec![global(name, Danger::Unknown, called)];
        judge(&RULE, &saved).told()
    }

    fn message(names: &[&str]) -> String {
        let mut saved = checkpoint(Vec::new());
        saved.globals = names.iter().map(|name| global(name, Danger::Unknown, true)).collect();
        let mut findings = judge(&RULE, &saved);
        assert_eq!(findings.told(), [(Severity::Note, "checkpoint".to_owned())]);
        findings.found.remove(0).message
    }

    #[test]
    fn one_class_is_a_note() {
        assert_eq!(message(&["my.Model"]), "model.pt names my.Model, on no list of harmless globals");
    }

    #[test]
    fn many_are_one_finding_that_names_the_first_few_once() {
        let names = ["f.A", "f.B", "f.C", "f.D", "f.E", "f.F", "f.A"];
        let expected = "model.pt names f.A, f.B, f.C, f.D, f.E and 1 more, on no list of harmless globals";
        assert_eq!(message(&names), expected);
    }

    #[test]
    fn what_is_called_is_judged_by_what_it_is() {
        let severity = |name| told(name, true)[0].0;
        assert_eq!(severity("uuid._some_getter"), Severity::Critical);
        assert_eq!(severity("torch.fx.somewhere.build"), Severity::Critical);
        assert_eq!(severity("numpy.something"), Severity::Critical);
        assert_eq!(severity("my.models.build"), Severity::Warning);
        assert_eq!(severity("my.models._make"), Severity::Warning);
        assert_eq!(severity("torch.somewhere.Thing"), Severity::Warning);
        assert_eq!(severity("my.models.Model"), Severity::Note);
        assert_eq!(severity("my.models._Model"), Severity::Note);
        assert_eq!(severity("torchvision.models.resnet.ResNet"), Severity::Note);
    }

    #[test]
    fn what_is_only_named_is_a_note() {
        for name in ["uuid._some_getter", "torch.nn.functional.gelu", "my.models.build"] {
            assert_eq!(told(name, false)[0].0, Severity::Note, "{name}");
        }
    }

    #[test]
    fn each_severity_is_a_finding_of_its_own() {
        let mut saved = checkpoint(Vec::new());
        let called = |name| global(name, Danger::Unknown, true);
        saved.globals = vec![called("my.Model"), called("my.build"), called("uuid._x")];
        let severities: Vec<_> =
            judge(&RULE, &saved).told().into_iter().map(|(severity, _)| severity).collect();
        assert_eq!(severities, [Severity::Critical, Severity::Warning, Severity::Note]);
    }

    #[test]
    fn none_is_silent_and_dangerous_ones_belong_to_another_rule() {
        let mut saved = checkpoint(Vec::new());
        assert!(judge(&RULE, &saved).is_clean());
        saved.globals = vec![global("posix.system", Danger::Dangerous, true)];
        assert!(judge(&RULE, &saved).is_clean());
    }
}

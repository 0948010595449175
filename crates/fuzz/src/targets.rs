//! The decoders and their seeds, which are examples of the RFCs.

/// A decoder to feed.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
    pub(crate) seeds: &'static [&'static str],
}

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "idset",
        run: types::fuzz::fuzz_idset,
        seeds: &["", "1,2,3,5,6,42", "1-3,5-6,42", "[1-3,5-6,42]"],
    },
    Target {
        name: "hostlist",
        run: types::fuzz::fuzz_hostlist,
        seeds: &[
            "foox,fooy,fooz",
            "[1-3,5-6]",
            "foo[0-4]-eth2",
            "[00-02]",
            "foo[1,1,2,1]",
            "host[0-10,12]",
            "foo09,foo10",
        ],
    },
    Target {
        name: "fsd",
        run: types::fuzz::fuzz_fsd,
        seeds: &["2ms", "0.1s", "30", "1.2h", "5m", "5d", "inf", "INFINITY"],
    },
    Target {
        name: "fluid",
        run: types::fuzz::fuzz_fluid,
        seeds: &[
            "6731191091817518",
            "ƒuZZybuNNy",
            "fuZZybuNNy",
            "0x17e9fb8df16c2e",
            "0017.e9fb.8df1.6c2e",
            "job.0017.e9fb.8df1.6c2e",
            "reform-remote-galileo--heart-package-academy",
            "🚹💂🙌😳💱🏃",
        ],
    },
    Target {
        name: "dumpfile",
        run: dumpfile::fuzz,
        seeds: &[
            include_str!("../seeds/pax.tar"),
            include_str!("../seeds/stored.zip"),
            "0707070000000000011006440000000000000000000000011452477040000000400000000001a/b\0x0707070000000000011207770000000000000000000000011452477040000000200000000004l\0n::a0707070000000000010000000000000000000000000000011452477040000001300000000000TRAILER!!!\0",
            "07070200000001000081A40000000000000000000000016553F10000000001000000000000000000000000000000000000000400000078a/b\0\0\0x\0\0\u{0}070702000000010000A1FF0000000000000000000000016553F10000000004000000000000000000000000000000000000000200000000l\0n::a07070200000001000000000000000000000000000000016553F10000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0",
            // A frame of lz4.
            "\u{4}\"M\u{18}`ps\u{3}\0\0\0\u{20}ab\0\0\0\0",
        ],
    },
    Target {
        name: "hwloc",
        run: topology::fuzz,
        seeds: &[
            "<object type=\"Machine\"><info name=\"HostName\" value=\"h\"/><object type=\"Core\"/></object>",
            "<object type=\"PCIDev\"><object type=\"OSDev\"><info name=\"Backend\" value=\"CUDA\"/></object></object>",
        ],
    },
    Target {
        name: "blobref",
        run: spec::fuzz::fuzz_blobref,
        seeds: &[
            "sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15",
            "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ],
    },
    Target {
        name: "eventlog",
        run: spec::fuzz::fuzz_eventlog,
        seeds: &[
            "{\"timestamp\":1552593348.073045,\"name\":\"submit\",\"context\":{\"urgency\":16,\"userid\":5588,\"flags\":0}}\n",
            "{\"timestamp\":1552593348.093541,\"name\":\"free\"}\n{\"timestamp\":1552593348.1,\"name\":\"clean\"}\n",
        ],
    },
    Target {
        name: "treeobj",
        run: spec::fuzz::fuzz_treeobj,
        seeds: &[
            r#"{"data":{},"type":"dir","ver":1}"#,
            r#"{"ver":1,"type":"val","data":"NDIyCg=="}"#,
            r#"{"ver":1,"type":"valref","data":["sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15"]}"#,
            r#"{"ver":1,"type":"symlink","data":{"namespace":"a","target":"b.b"}}"#,
            r#"{"ver":1,"type":"dir","data":{"a":{"ver":1,"type":"dir","data":{"b":{"ver":1,"type":"val","data":""}}}}}"#,
        ],
    },
    Target {
        name: "crontab",
        run: spec::fuzz::fuzz_crontab,
        seeds: &[
            "*/15 1-3,7 * Jan,Dec Mon-Fri run this",
            "5-3 */2 31 11 7 x",
            "# comment",
        ],
    },
    Target {
        name: "constraint",
        run: spec::fuzz::fuzz_constraint,
        seeds: &[
            r#"{"and":[{"hostlist":["host[0-1]"]},{"properties":["ssd"]}]}"#,
            r#"{"not":[{"properties":["^slowgpu"]}]}"#,
            r#"{"ranks":["0"]}"#,
        ],
    },
    Target {
        name: "r",
        run: spec::fuzz::fuzz_r,
        seeds: &[
            r#"{"version":1,"execution":{"R_lite":[{"rank":"19-22","children":{"core":"0-47","gpu":"0-7"}}],"nodelist":["node[186-189]"],"nslots":32,"starttime":1676560542,"expiration":1676562342}}"#,
            r#"{"version":1,"execution":{"R_lite":[{"rank":"0","children":{"core":"0"}}],"starttime":0.0,"expiration":0.0,"nodelist":["a"],"properties":{"p":"0"}},"scheduling":{"x":1}}"#,
        ],
    },
    Target {
        name: "jobspec",
        run: spec::fuzz::fuzz_jobspec,
        seeds: &[
            r#"{"version":1,"resources":[{"type":"node","count":4,"with":[{"type":"slot","count":1,"label":"default","with":[{"type":"core","count":2}]}]}],"tasks":[{"command":["app"],"slot":"default","count":{"per_slot":1}}],"attributes":{"system":{"duration":3600.0,"cwd":"/home/flux","environment":{"HOME":"/home/flux"}}}}"#,
            r#"{"version":999,"resources":[{"type":"slot","count":{"min":3,"max":30,"operator":"+","operand":1},"label":"default","with":[{"type":"node","count":1}]}],"tasks":[{"command":["flux","start"],"slot":"default","count":{"per_resource":{"type":"node","count":1}}}],"attributes":null}"#,
        ],
    },
    Target {
        name: "count",
        run: spec::fuzz::fuzz_count,
        seeds: &[
            "1-5:2:+",
            "1-4",
            "[1-4:2:*]",
            "[100+]",
            "2-300:2:^",
            "4,9,16,25",
        ],
    },
    Target {
        name: "shape",
        run: spec::fuzz::fuzz_shape,
        seeds: &[
            "slot=4{nodelevel}/node{-x}/socket=2+/core=4+",
            "[cluster/slot=2{ib}/node/[memory=4{unit:GB};ib10g];switch/slot=2{bicore}/node/core=2]",
            r#"node{+x,a,b:1.5,c:"q r",d:[1,t],e:{f:g}}/slot=3-30:2:*/core=1-4,7"#,
        ],
    },
    Target {
        name: "proctable",
        run: spec::fuzz::fuzz_proctable,
        seeds: &[
            r#"{"hosts":[["vm",[[-1,-3]]]],"executables":["a",["b",[1,2,[3,-1]]]],"ids":[[0,3]],"pids":[14576,2,-4,6],"ranks":[[0,-1],[1,-1]]}"#,
            r#"{"hosts":["a","b"],"executables":["c","d"],"ids":[0,1],"pids":[[7,1]]}"#,
        ],
    },
    Target {
        name: "taskmap",
        run: spec::fuzz::fuzz_taskmap,
        seeds: &[
            "[[0,6,1,2],[4,2,1,2]]",
            "{\"version\":1,\"map\":[[0,4096,256,1]]}",
            "(vector,(0,4,2),(4,2,4))",
            "0,6;1,7;2,8;3,9;4,10,12,14;5,11,13,15",
        ],
    },
    Target {
        name: "stdio",
        run: spec::fuzz::fuzz_stdio,
        seeds: &[
            r#"{"stream":"stdout","rank":"31","data":"bWVlcAo=","eof":"true"}"#,
            r#"{"stream":"stderr","rank":"0-3","encoding":"base64","data":"/w==","repeat":2}"#,
        ],
    },
    Target {
        name: "fork-request",
        run: subprocess::forkserver::fuzz_request,
        seeds: &["\x01/tmp\x002\0flux\0shell\0HOME=/root\0X=\0", "\0\0\x30\0"],
    },
    Target {
        name: "job-history",
        run: jobs::history::fuzz_summary,
        seeds: &[
            "flux job history 1\n",
            concat!(
                "flux job history 1\n\0-sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15\x01\x4d",
                "\x05\0\0\x20\0",
                "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
        ],
    },
    Target {
        name: "blob-list",
        run: |bytes| drop(proto::content::BlobList::decode(&bytes.to_vec().into())),
        seeds: &["", "\x03\0\0\0abc\0\0\0\0"],
    },
    Target {
        name: "zmtp",
        run: zmtp::fuzz::fuzz_connection,
        seeds: &[
            "\x01\x03one\x01\x00\x00\x05three",
            "\x02\0\0\0\0\0\0\0\x04long",
            "\x04\x07\x04PING\0\0\x04\x0a\x04PING\0\0ctx\x04\x07\x04PONGxx",
            "\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0",
            "\x04\x0a\x05ERROR\x03400\0\x05hello",
            "\x00\x19\x07MESSAGE\0\0\0\0\0\0\0\x030123456789abcdef",
        ],
    },
    Target {
        name: "certificate",
        run: zmtp::fuzz::fuzz_certificate,
        seeds: &[
            "#  comment\n\nmetadata\n    name = \"foo\"\ncurve\n    public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\"\n    secret-key = \"D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\"\n",
        ],
    },
    Target {
        name: "terminus",
        run: proto::terminus::fuzz,
        seeds: &[
            r#"{"type":"data","data":"ls\r"}"#,
            r#"{"type":"data","data":"AP8=","encoding":"base64"}"#,
            r#"{"type":"attach","mode":"rw","winsize":{"rows":25,"cols":80}}"#,
            r#"{"type":"exit","message":"session exiting","status":256}"#,
        ],
    },
];

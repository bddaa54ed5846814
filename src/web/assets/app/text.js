// Every English text of the console, so that it can be read in one go, kept consistent, and one day translated.

const s = (n, one, many = `${one}s`) => `${typeof n === 'number' ? String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ',') : n} ${String(n) === '1' ? one : many}`;

export const t = {
  product: 'Kafscale',
  loading: 'Loading…',
  working: 'Working…',
  none: 'none',
  yes: 'yes',
  no: 'no',
  justNow: 'just now',
  copied: 'Copied.',
  copyFailed: 'The browser did not allow copying: select the text and copy it yourself.',
  command: 'The same on the command line',
  viewerMayNot: 'Your role may look at everything and change nothing.',
  ago: (age) => `${age} ago`,
  since: (at, age) => `since ${at} (${age})`,
  ms: (n) => `${n} ms`,
  more: (n) => `and ${n} more`,
  broker: (id) => `Broker ${id}`,
  unknown: { word: 'unknown', title: 'The console could not find this out.' },
  action: {
    retry: 'Try again', cancel: 'Cancel', close: 'Close', copy: 'Copy', clear: 'Clear', delete: 'Delete', edit: 'Edit', undo: 'Undo', preview: 'Preview', reload: 'Reload',
  },
  confirm: { label: (name) => `Type ${name} to confirm` },
  table: { actions: 'Actions' },
  pager: {
    shown: (n, total, noun) => (total === null ? `${s(n, noun[0], noun[1])} on this page` : `${n} of ${total === '1' ? `1 ${noun[0]}` : `${total} ${noun[1]}`}`),
    first: 'First page', next: 'Next',
  },
  error: {
    title: (code) => ({
      offline: 'The console does not answer', unavailable: 'Not available at the moment', forbidden: 'Not allowed', not_found: 'Not found', invalid: 'That cannot be done like this',
      confirm_mismatch: 'The name does not match', conflict: 'Something else was changed meanwhile', budget: 'It took too long', csrf: 'This page is out of date: reload it', locked_out: 'Locked',
    }[code] ?? (/^[A-Z_]+$/.test(code ?? '') ? `The cluster refused: ${code}` : 'That did not work')),
    offline: 'No answer from the console. Check the network, and whether the console is running.',
    garbled: 'The answer could not be read. A proxy between here and the console may have changed it.',
    module: 'A part of the page could not be loaded. Reload the page; the console may have been updated.',
    status: (status) => `The console answered with status ${status}.`,
    request: (id) => `Request ${id}`,
  },
  partial: { title: (n) => `${s(n, 'source')} did not answer: what they know is shown as unknown` },
  stale: {
    title: 'What you see is old',
    text: (at, since) => `${at ? `It is from ${at}. ` : ''}New data could not be fetched${since ? ` since ${since}` : ''}.`,
  },
  notFound: { title: 'There is no such page', text: 'The address may be mistyped, or it belongs to another version of the console.', home: 'To the overview' },

  nav: {
    skip: 'Skip to the content', label: 'Main', side: 'Navigation', home: 'Kafscale: overview', open: 'Navigation', crumbs: 'Where you are',
    data: 'Data', infrastructure: 'Infrastructure', money: 'Money', administration: 'Administration',
    overview: 'Overview', topics: 'Topics', groups: 'Consumer groups', brokers: 'Brokers', storage: 'Object storage', cost: 'Cost', etcd: 'etcd', actors: 'Actors', audit: 'Audit log', settings: 'Settings', api: 'API', s3: 'S3',
    version: (v) => `Version ${v}`, cluster: (id) => `Cluster ${id}`,
  },
  finder: {
    button: 'Find anything', title: 'Find', placeholder: 'Name of a topic, group or page', nothing: 'Nothing has this in its name.', page: 'Page', topic: 'Topic', group: 'Group',
  },
  help: {
    title: 'Keyboard', search: 'Search on this page', finder: 'Find a topic, group or page', rows: 'Next, previous row', help: 'This list', escape: 'Close, leave the field', go: (page) => `Go to ${page}`,
  },
  user: {
    menu: 'Account', signedIn: 'Signed in as', roles: { admin: 'Administrator', viewer: 'Viewer' }, logout: 'Sign out', logoutEverywhere: 'Sign out everywhere', copyLink: 'Copy a link to this view',
  },
  theme: {
    title: 'Theme', auto: 'System', light: 'Light', dark: 'Dark',
    label: (now, next) => `Theme: ${{ auto: 'as the system', light: 'light', dark: 'dark' }[now]}. Switch to ${{ auto: 'the system’s', light: 'light', dark: 'dark' }[next]}`,
  },
  time: { title: 'Times', utc: 'UTC', local: 'Local time', toggle: (mode) => (mode === 'utc' ? 'Show local time' : 'Show UTC') },
  live: {
    live: 'Live', connecting: 'Connecting', reconnecting: 'Reconnecting', paused: 'Paused', ended: 'Ended', stale: 'Stale', failed: 'Failed',
    pause: 'Pause', resume: 'Resume',
    help: {
      live: 'Numbers come every two seconds', connecting: 'Waiting for the first numbers', reconnecting: 'The stream was interrupted; trying again', paused: 'Paused by you', ended: 'The console ended the stream', stale: 'No numbers for more than ten seconds',
    },
    reason: (r) => `reason: ${r}`,
    dropped: (n) => `${s(n, 'update')} left out because this browser was slow`,
    droppedShort: (n) => `${n} left out`,
  },
  levels: { ok: 'OK', warn: 'Warning', critical: 'Critical', unknown: 'Unknown' },
  emptyUnknown: 'What there is cannot be known at the moment', emptyUnknownHelp: 'Who would know of it does not answer; see above.',
  health: { ok: 'The cluster is well', warn: 'The cluster works, with a warning', critical: 'The cluster is not well', unknown: 'Not known whether the cluster is well', okText: 'Brokers, object store and metadata answer, and every partition has a leader.' },
  states: {
    healthy: 'Healthy', degraded: 'Degraded', unavailable: 'Unavailable', embedded: 'Built in', unknown: 'Unknown', live: 'Serving', draining: 'Draining', drained: 'Drained', unreachable: 'Unreachable', failed: 'Failed', none: 'None',
    Stable: 'Stable', Empty: 'Empty', Dead: 'Dead', PreparingRebalance: 'Preparing rebalance', CompletingRebalance: 'Completing rebalance', Assigning: 'Assigning', Reconciling: 'Reconciling', Unknown: 'Unknown',
  },

  login: {
    title: 'Sign in', username: 'User name', password: 'Password', show: 'Show', hide: 'Hide', submit: 'Sign in',
    unset: 'Nobody can sign in yet',
    unsetHelp: 'Set KAFSCALE_UI_USERNAME and KAFSCALE_UI_PASSWORD for the console and start it again. There are no defaults.',
    unreachable: 'The console does not answer',
    wrong: 'User name or password is wrong', wrongHelp: 'Check both. After several wrong attempts in a row you have to wait.',
    locked: 'Too many attempts', lockedFor: (left) => `You can try again in ${left}.`,
    note: 'You are signed out after a while without use.',
  },

  overview: {
    title: 'Overview', in: 'Bytes in', out: 'Bytes out', records: 'Records in', produceP99: 'Produce p99', fetchP99: 'Fetch p99', fetchWaits: 'with the wait for records', requests: 'Requests',
    p50: (v) => `p50 ${v}`, brokers: 'Brokers', of: (n) => `of ${n}`, topics: 'Topics', groups: 'Consumer groups', leaderless: 'Leaderless partitions', leaderlessSub: 'cannot be written or read', s3: 'Object store', etcd: 'Metadata (etcd)',
    brokersSub: (b) => (Number(b.draining) > 0 ? `${b.draining} draining` : ''),
    partitions: (n) => (n === '1' ? '1 partition' : `${n} partitions`), puts: (r) => `${r} PUT`, gets: (r) => `${r} GET`,
    history: 'History', historySub: 'Remembered by the console for 24 hours', throughput: 'Throughput', latency: 'Latency (p99)', s3Requests: 'S3 requests', requestRate: 'Kafka requests',
    putName: 'PUT', getName: 'GET', errorName: 'Errors', look: 'Look',
  },
  chart: {
    range: 'Time range', table: 'As table', graph: 'As graph', time: 'Time', empty: 'No data.', none: 'No data in this time range.', failed: 'History is not available', gaps: (sources) => `Missing at the moment: ${sources}`,
    summary: (title, last, from, to) => `${title}: last ${last}, from ${from} to ${to}`, recent: (k) => `${k} in the last minutes`, label: (k, v) => `${k} ${v}`,
  },

  topics: {
    title: 'Topics', noun: ['topic', 'topics'], create: 'Create topic', created: (n) => `Topic ${n} was created.`, search: 'Search by name', showInternal: 'Internal topics', internal: 'internal', leaderless: (n) => `${n} without leader`,
    name: 'Topic', partitions: 'Partitions', records: 'Records', size: 'Size', in: 'In', recordsIn: 'Records/s', out: 'Out', policy: 'Cleanup', retention: 'Retention', forever: 'forever',
    none: 'No topics yet', noneHelp: 'Create one here, or let a client write to a name of its choice.', noMatch: (q) => `No topic has “${q}” in its name`, noMatchHelp: 'Internal topics are only searched if they are shown.',
    nameHelp: 'Letters, digits, dot, underscore and hyphen; it cannot be changed later.', badName: 'Up to 249 letters, digits, dots, underscores and hyphens.', badPartitions: 'A whole number, 1 or more.', badDays: 'A number of days, or empty for the default.',
    policyDelete: 'Delete old records', policyCompact: 'Keep the newest per key', policyBoth: 'Both', days: 'Retention, days', more: 'Other configs', moreHelp: 'One name=value per line, for example max.message.bytes=2097152', badConfig: (line) => `“${line}” is not name=value`,
    previewOk: 'The cluster would accept this. Nothing has been created yet.', yaml: 'The same as a resource for the operator', yourCluster: 'your-cluster',
  },
  topic: {
    tabs: 'Parts of the topic', tab: { partitions: 'Partitions', messages: 'Messages', configs: 'Configs', groups: 'Consumer groups', segments: 'Segments', cost: 'Cost' },
    all: 'All topics', missing: (n) => `There is no topic ${n}`, missingHelp: 'It may have been deleted, or its name is written differently.',
    managed: (kind) => `Managed by ${kind}`, managedHelp: 'A Kubernetes resource describes this topic: the operator may undo changes that are made here.',
    summary: (p, size, records) => `${s(p, 'partition')} · ${size ?? 'size unknown'} · ${records === null ? 'records unknown' : `${records} records`}`,
    partition: 'Partition', leader: 'Leader', noLeader: 'no leader', epoch: 'Epoch', start: 'First offset', end: 'End offset', lastRecord: 'Last record', readPartition: 'Read this partition',
    partitionErrors: (n) => `${s(n, 'partition')} did not answer: its offsets are unknown`,
    noGroups: 'No group reads this topic', noGroupsHelp: 'Groups appear here when they have committed an offset or have a member assigned to a partition.',
    extend: 'Add partitions', extendTitle: (n) => `Add partitions to ${n}`, extendHelp: 'Partitions can be added, never removed. Records with a key may go to another partition than before.', extendCount: 'Partitions afterwards', extendMore: (n) => `A whole number greater than ${n}.`, extendPreview: (a, b) => `From ${a} to ${b} partitions.`, extended: (n, c) => `${n} has ${c} partitions now.`,
    truncate: 'Delete records', truncateTitle: (n) => `Delete records of ${n}`, truncateHelp: 'Records before an offset are deleted for all readers. This cannot be undone.', truncateAll: 'All partitions, everything up to now', truncateOne: (p, a, b) => `${p} (offsets ${a ?? 'unknown'} to ${b ?? 'unknown'})`, truncateBefore: 'Delete before this offset', startBefore: 'First offset now', startAfter: 'First offset then', truncated: (n) => `Records of ${n} were deleted.`,
    deleteTitle: (n) => `Delete topic ${n}`, deleteVerb: 'Delete topic', deleteText: 'The topic and all its records are deleted for good. Clients that write to it may create it again, empty.', deleted: (n) => `Topic ${n} was deleted.`, readers: 'Read by', noReaders: 'no group',
  },
  messages: {
    title: 'Messages', allPartitions: 'All partitions', from: 'Start at', froms: { newest: 'Newest', oldest: 'Oldest', offset: 'Offset…', time: 'Time…' }, offset: 'Offset', time: 'Time', position: 'Partition·Offset', key: 'Key', value: 'Value', headers: 'Headers',
    search: 'Text in key, value or header', tail: 'Follow live', stopTail: 'Stop following', produce: 'Produce',
    filter: 'Filter expression', filterPlaceholder: 'Filter, e.g. size > 1024 && key.startsWith("user-")', applyFilter: 'Apply', badFilter: 'The expression is not valid.', options: 'Options',
    filterHelp: 'An expression in CEL over key, value, headers, offset, partition, timestamp_ms and size. For example', filterExample: 'partition == 3 && value.contains("error")',
    keyDecoder: 'Decode keys as', keySchema: 'Avro schema of keys', valueSchema: 'Avro schema of values', schemaHelp: 'The schema that they were written with, as JSON. It stays in the address of this page.', schemaNone: 'Paste a schema first.', schemaBad: (why) => `This is not JSON: ${why}`, schemaLong: (n) => `A schema may have 16 KiB; this one has ${n}.`, useSchema: 'Use schema', valueDecoder: 'Decode values as', limit: 'Records per page',
    decoders: { auto: 'Detect', text: 'Text', json: 'JSON', hex: 'Hex', avro: 'Avro', protobuf: 'Protobuf', msgpack: 'MessagePack', cbor: 'CBOR', empty: 'Empty' },
    exportJsonl: 'Export JSON Lines', exportCsv: 'Export CSV', copyKcat: 'Copy as kcat',
    scanning: 'Reading…', scanned: (n, size) => `Read ${n === '1' ? '1 record' : `${n} records`}, ${size}.`, stopped: { time: 'Stopped: time is up.', bytes: 'Stopped: enough bytes were read.', cancelled: 'Stopped by you.' },
    shown: (n) => s(n, 'record'), older: 'Older', newer: 'More', end: 'That is all', full: (n) => `${n} records are shown; narrow the search`,
    none: 'No records', noneHelp: 'Nothing has been written here yet, or retention has deleted it.', noMatch: 'No record matches', noMatchYet: (n, size) => `${n} records (${size}) were read so far.`, noMatchAll: (n) => `All ${n} records in this range were read.`, searchOn: 'Search on',
    tailEmpty: 'Waiting for new records', tailEmptyHelp: 'What is written from now on appears here.', tailStats: (rate, scanned) => `${rate}, ${scanned} read`, dropped: (n) => `${n} left out`, waiting: (n) => `${n} waiting`,
    null: 'null', tombstone: 'Tombstone (null)', emptyText: 'empty', control: 'control', headerCount: (n) => s(n, 'header'), noHeaders: 'No headers',
    timeTypes: { create: 'Created', append: 'Appended' }, codec: 'Compression', producer: 'Producer', transactional: '(transactional)', copyLink: 'Copy link', again: 'Produce again', view: 'View', pretty: 'Pretty', rawText: 'Raw', download: 'Download', truncated: 'Shortened. Download it to see all of it.',
    produceTitle: (n) => `Produce to ${n}`, produceMode: 'How many', one: 'One record', many: 'Several (JSON Lines)', byKey: 'By key', keyEncoding: 'Key is', valueEncoding: 'Value is', noKey: 'None', asText: 'Text', asBase64: 'Base64', headersHelp: 'One name: value per line', badHeader: (l) => `“${l}” is not name: value`,
    manyLabel: 'Records', manyHelp: 'One JSON object per line with key, value and, if wanted, partition and headers. At most 500.', badLine: (n) => `Line ${n} is not a JSON object`, noLines: 'Write at least one line.', tooMany: (n) => `At most ${n} records at once.`, send: (n) => (n === 1 ? 'Produce' : `Produce ${n} records`), produced: (n) => `${s(n, 'record')} produced.`,
  },
  configs: {
    search: 'Search by name', show: 'Which configs', all: 'All', own: 'Changed', none: 'No config matches', readOnly: 'read-only', hidden: 'hidden', empty: 'empty', reset: 'Reset', backToDefault: 'back to the default', noDocs: 'No description.', type: 'Type', defaultValue: 'Default',
    sources: {
      DYNAMIC_TOPIC_CONFIG: 'topic', DYNAMIC_BROKER_CONFIG: 'broker, dynamic', DYNAMIC_DEFAULT_BROKER_CONFIG: 'cluster, dynamic', STATIC_BROKER_CONFIG: 'broker', DEFAULT_CONFIG: 'default',
      DYNAMIC_GROUP_CONFIG: 'group',
    },
    editName: (n) => `Edit ${n}`, resetName: (n) => `Reset ${n}`, changes: (n) => `${s(n, 'change')} not applied yet`, discard: 'Discard', review: 'Review', reviewTitle: (n) => `Change configs of ${n}`, apply: 'Apply', before: 'Before', after: 'After', defaultWord: '(default)', saved: (n) => `Configs of ${n} were changed.`,
  },
  segments: {
    noun: ['segment', 'segments'], kind: 'Kind', kinds: { wal: 'Written by a flush; holds records of many partitions', merged: 'Written again, with the records of fewer partitions', compacted: 'Written again, with the newest record of each key' }, offsets: 'Partition · Offsets', read: 'Read from the first of these records', last: 'Newest record', object: 'Object', summary: (n, size) => `${n === null ? 'unknown number of objects' : s(n, 'object')}, ${size ?? 'size unknown'}`,
    none: 'No segments', noneHelp: 'Records appear in the object store with the next flush.', note: 'An object usually holds records of several partitions and topics; sizes are this topic’s part of it.',
  },

  groups: {
    title: 'Consumer groups', noun: ['group', 'groups'], group: 'Group', unnamed: '(no name)', state: 'State', type: 'Type', types: { classic: 'Classic', consumer: 'Consumer', share: 'Share' }, members: 'Members', lag: 'Lag', lagHere: 'Lag in this topic', topics: 'Topics', topic: 'Topic', search: 'Search by name', anyState: 'Any state', anyType: 'Any type',
    none: 'No consumer groups yet', noneHelp: 'They appear when a client joins with a group id or commits an offset.', noMatch: 'No group matches',
  },
  group: {
    all: 'All groups', missing: (id) => `There is no group ${id}`, missingHelp: 'It may have been deleted, or its last offset has expired.', reset: 'Reset offsets',
    stuck: 'This group does not move', stuckHelp: 'Records arrive, but it has committed nothing', lagTotal: 'Total lag', coordinator: 'Coordinator', assignor: 'Assignor', lagHistory: 'Lag', lagHistorySub: 'Since the console first looked at this group', noHistory: 'No history yet: it grows while the console runs.',
    offsets: 'Offsets', onlyLagging: 'Only with lag', noneLagging: 'No partition has lag', noOffsets: 'No offsets', noOffsetsHelp: 'The group has committed nothing yet.', committed: 'Committed', noCommit: 'none', member: 'Member', nobody: 'nobody', metadata: 'Metadata', perTopic: 'Forget offsets of one topic:',
    client: 'Client', noClient: '(no client id)', host: 'Host', instance: 'Instance', assigned: 'Assigned', nothing: 'nothing', noMembers: 'No members', noMembersHelp: 'Nobody reads with this group at the moment; its offsets are kept.',
    resetTitle: (id) => `Reset offsets of ${id}`, resetHelp: 'Nothing is changed before you have seen the preview and confirmed it.', resetPreview: (n) => `${s(n, 'partition')} would change. Readers continue from the new offsets.`, changeTarget: 'Change the target', resetDone: (id, n) => `Offsets of ${id} were reset in ${s(n, 'partition')}.`,
    blocked: 'Not possible now', active: (n) => `The group has ${s(n, 'active member')}`, activeHelp: 'Stop them first: the coordinator refuses while somebody reads.',
    allTopics: (n) => `All topics (${n})`, target: 'To', kinds: { earliest: 'The earliest record', latest: 'The end', offset: 'An offset', shift: 'Forward or back by', time: 'A time', duration: 'Minutes ago' }, shiftBy: 'Records', shiftHelp: 'Negative goes back, positive forward.', timeHelp: (zone) => `In ${zone}: the first record at or after it.`, minutes: 'Minutes',
    badOffset: 'A whole number, 0 or more.', badShift: 'A whole number such as -100 or 50.', badTime: 'Choose date and time.', badMinutes: 'A number greater than 0.',
    changes: 'Changes', now: 'Now', new: 'New', lagBefore: 'Lag now', lagAfter: 'Lag then',
    deleteTitle: (id) => `Delete group ${id}`, deleteVerb: 'Delete group', deleteText: (n) => `Its committed offsets (${s(n, 'partition')}) are deleted for good. Readers that come back start where their auto.offset.reset says.`, deleted: (id) => `Group ${id} was deleted.`,
    forget: (topic) => topic, forgetTitle: (topic) => `Forget offsets of ${topic}`, forgetVerb: 'Forget offsets', forgetText: (topic) => `The group’s offsets of ${topic} are deleted. If it reads the topic again, it starts where its auto.offset.reset says.`, forgotten: (topic) => `Offsets of ${topic} were deleted.`,
  },

  brokers: {
    title: 'Brokers', broker: 'Broker', controller: 'controller', address: 'Address', rack: 'Rack', led: 'Partitions led', connections: 'Connections', cache: 'Cache hits', version: 'Version', started: 'Started', none: 'No brokers known', noneStale: 'None was registered when etcd answered last. Which there are now is unknown.', noneHelp: 'No broker has registered. Start one, or check that the console looks at the same etcd prefix.',
    metricsUnreachable: 'Its metrics listener does not answer', metricsUnknown: 'It has not told where its metrics are', all: 'All brokers', missing: (id) => `There is no broker ${id}`, missingHelp: 'It is not registered: it was stopped, or its lease has expired.',
    tabs: 'Parts of the broker', tab: { overview: 'Overview', configs: 'Configs' }, about: 'About', metrics: 'Metrics', control: 'Control plane', reach: { ok: 'reachable', unreachable: 'does not answer', unknown: 'unknown', none: 'not configured' }, readiness: 'Readiness', ready: 'Ready', notReady: 'Not ready', configsUnknown: 'Its configs are unknown: the broker does not answer', actorsRunning: (n, r) => `${n} running, ${r} restarts`,
    drain: 'Drain', undrain: 'Undrain', noControl: 'Its control plane cannot be reached from the console', drainTitle: (id) => `Drain broker ${id}`, drainText: (n) => `The broker hands over the partitions it leads (${n}) and its groups, and takes no new ones until it is undrained or restarted. Clients move with them; nothing is lost.`, drainStarted: (id) => `Broker ${id} is draining.`, undrained: (id) => `Broker ${id} takes partitions again.`,
    drainStates: { draining: 'Draining', drained: 'Drained: it can be stopped', failed: 'Draining failed' }, moved: (a, b) => `${a ?? 'unknown'} of ${b} handed over`,
  },
  storage: {
    title: 'Object storage', sub: 'How each broker finds S3, by the requests it makes anyway.', none: 'No broker has answered', noneHelp: 'Health of the object store is measured by brokers.', op: 'Operation', rate: 'Rate', total: 'Total', errors: 'Errors', requests: (b) => `S3 requests of broker ${b}`,
    latencyNow: 'PUT latency (p90)', errorRate: 'Error rate', replica: 'Copy in another region', replicaUse: (hits, fallbacks) => `${hits} reads from the copy, ${fallbacks} from the original`, noReplica: 'not configured', window: (sec) => `Measured over the last ${sec} s. Above the first threshold the state is degraded, above the second unavailable.`, thresholds: (a, b) => `warning at ${a}, critical at ${b}`, noThreshold: 'no threshold', ops: { create: 'PUT', put: 'PUT', get_range: 'GET (range)', get_suffix: 'GET (end)', get: 'GET', head: 'HEAD', delete: 'DELETE', list: 'LIST' }, gauge: (v, c) => `${v} of ${c}`,
    latency: 'Latency (p99)', errorsRate: 'Errors', puts: 'PUTs', gets: 'GETs',
  },
  cost: {
    title: 'Cost', sub: 'Extrapolated to a month of 30 days from requests and bytes that were measured.', window: 'Measured over', perMonth: 'Per month', fromWindow: (w) => `from ${w}`, requests: 'Requests', storage: 'Storage', stored: 'Stored', in: 'Written', out: 'Read', measuredIn: 'in the measured time', share: 'Share of writes',
    prices: 'Prices', pricesSub: 'US dollars. Change them to your contract’s; the address keeps them.', resetPrices: 'Defaults', priceNames: { put_per_1000: 'PUT, per 1,000', get_per_1000: 'GET, per 1,000', list_per_1000: 'LIST, per 1,000', delete_per_1000: 'DELETE, per 1,000', storage_gb_month: 'Storage, per GB and month', egress_gb: 'Egress, per GB' }, badNumber: 'A number, 0 or more.',
    whatIf: 'What if', whatIfSub: 'The same load with other settings.', flush: 'Flush interval, ms', flushHelp: 'Longer: fewer PUTs, later acks.', retention: 'Retention, days', gb: 'GB written per day',
    byTopic: 'By topic', showing: (n, all) => `${n} of ${s(all, 'topic')}, those that cost most`, showMore: 'Show more', none: 'No topic has cost anything yet', noneHelp: 'Costs appear when records are written.', measured: 'What was measured', class: 'Price class', classes: { put: 'PUT', get: 'GET', list: 'LIST', free: 'free', delete: 'free' }, count: 'Count', noRequests: 'No requests yet', calculation: 'The calculation', calculationSub: 'Line by line, to check it.',
    topicNone: 'No cost is known for this topic', topicNoneHelp: 'Nothing was written to it in the measured time, or no broker has answered.', requestsMonth: 'Requests per month', topicNote: 'Requests are shared out by the bytes of each topic, since an object carries several topics.', open: 'Prices and what-if',
  },
  etcd: {
    title: 'etcd', kinds: { etcd: 'etcd', embedded: 'Built in' }, embedded: 'Metadata is in a file', embeddedHelp: 'This cluster runs without etcd: one broker keeps the metadata in a file beside its objects. That is for development.', none: 'No member has answered', noneHelp: 'Check the endpoints the console was given.', leader: 'leader', alarms: 'Alarms', size: 'Database', inUse: 'In use', revision: 'Revision', term: 'Raft term',
    snapshots: 'Snapshots', noSnapshots: 'Nobody has told the console of snapshots. Those that the operator takes are shown here if KAFSCALE_CONSOLE_OPERATOR_METRICS_URL names its metrics. Of an etcd that nobody looks after, take them yourself, for example:', noSnapshotsEmbedded: 'There is no etcd to take snapshots of.',
    snapshotCluster: 'Cluster', lastSuccess: 'Last success', lastBegun: 'Last begun', never: 'never', bucket: 'Bucket', writable: 'writable', notWritable: 'not writable', notTried: 'not tried', snapshotState: 'State', fine: 'up to date', stale: 'too old', noSuccess: 'none yet', snapshotHelp: 'As the operator tells. It takes them as a CronJob; the conditions of the KafscaleCluster say more:',
  },
  actors: {
    title: 'Actors', sub: 'What runs inside brokers and console, under supervision: a part that fails is started again.', search: 'Search by path or topic', system: 'Process', allSystems: 'All processes', restartedOnly: 'Restarted only', none: 'No process has answered', noMatch: 'No actor matches', summary: (n, r) => `${s(n, 'actor')}, ${s(r, 'restart')}`, tree: (x) => `Actors of ${x}`, actor: 'Actor', restarts: 'Restarts', mailbox: 'Mailbox', upTo: (n) => `holds ${n}`, uncounted: 'How many messages wait is counted for partitions, groups and the coordinator; the rest only have a bound.', lastExit: 'Last exit', running: 'Running', stopped: 'Stopped',
  },
  audit: {
    title: 'Audit log', sub: 'Changes made or attempted through this console, newest first. The console’s log has all of them.', noun: ['entry', 'entries'], search: 'User, action or resource', when: 'When', who: 'Who', action: 'Action', resource: 'Resource', outcome: 'Outcome', detail: 'Detail', outcomes: { ok: 'done', refused: 'refused', failed: 'failed' }, none: 'Nothing was changed yet', noneHelp: 'Every change made here is recorded: who, what, before and after.', noMatch: 'No entry matches', entry: (id, role) => `Entry ${id}, as ${role}`,
  },
  settings: {
    title: 'Settings', look: 'Appearance', session: 'Session', role: 'Role', idle: 'Ends without use', expires: 'Ends at the latest', about: 'About', component: 'Runs as', cluster: 'Cluster', history: 'History', hours: (n) => (n === null || n === undefined ? 'unknown' : s(n, 'hour')), links: 'Links', linkNames: { grafana: 'Grafana', traces: 'Traces', metrics: 'Metrics', docs: 'Documentation' }, noLinks: 'No links to dashboards or traces are configured.', config: 'Configuration', name: 'Name', source: 'Source',
    limits: { sessions: 'Sessions, at most', session_idle_sec: ['Session without use', 'sec'], session_sec: ['Session at the longest', 'sec'], login_failures_per_address: 'Wrong passwords per address', login_failures_per_user: 'Wrong passwords per user', requests: 'Requests at a time', streams: 'Live pages and exports at a time', history_series: 'Series in the history', live_every_ms: ['Live state every', 'ms'] },
  },
  reference: { title: 'API', sub: 'Everything this console shows and does, for programs. Base path /api/v1.', search: 'Search operations', none: 'No operation matches' },
};

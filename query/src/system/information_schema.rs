//! The database `information_schema`, with MySQL's tables and columns. What SheafDB has none of is there and empty.

use sheaf_common::WireError;

use super::cells::{Cell, Row, row};
use super::own::{all_tables, elapsed_ms};
use crate::catalog::provider::Tables;
use crate::catalog::{CATALOG, TableInfo, TableSource};
use crate::managed::definition::{ManagedColumn, ManagedDef};
use crate::tables::mysql_types::mysql_type;

const CHARSET: &str = "utf8mb4";
const COLLATION: &str = "utf8mb4_0900_ai_ci";
const BINARY: &str = "binary";

/// Name, character set, id, and whether it is its set's default. Ids are MySQL's.
const COLLATIONS: &[(&str, &str, u64, &str)] = &[
    (BINARY, BINARY, 63, "Yes"),
    (COLLATION, CHARSET, 255, "Yes"),
    ("utf8mb4_bin", CHARSET, 46, ""),
    ("utf8mb4_general_ci", CHARSET, 45, ""),
    ("utf8mb4_unicode_ci", CHARSET, 224, ""),
];

const ROLE_AUTHORIZATIONS: &str = "USER:s? HOST:s? GRANTEE:s? GRANTEE_HOST:s? ROLE_NAME:s? ROLE_HOST:s? IS_GRANTABLE:s \
                                   IS_DEFAULT:s? IS_MANDATORY:s";

/// Words that cannot be names without quotes, as clients ask for them to quote by.
const RESERVED: &str = "ACCESSIBLE ADD ALL ALTER ANALYZE AND AS ASC ASENSITIVE BEFORE BETWEEN BIGINT BINARY BLOB BOTH BY \
    CALL CASCADE CASE CHANGE CHAR CHARACTER CHECK COLLATE COLUMN CONDITION CONSTRAINT CONTINUE CONVERT CREATE CROSS CUBE \
    CUME_DIST CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER CURSOR DATABASE DATABASES DAY_HOUR \
    DAY_MICROSECOND DAY_MINUTE DAY_SECOND DEC DECIMAL DECLARE DEFAULT DELAYED DELETE DENSE_RANK DESC DESCRIBE \
    DETERMINISTIC DISTINCT DISTINCTROW DIV DOUBLE DROP DUAL EACH ELSE ELSEIF EMPTY ENCLOSED ESCAPED EXCEPT EXISTS EXIT \
    EXPLAIN FALSE FETCH FIRST_VALUE FLOAT FLOAT4 FLOAT8 FOR FORCE FOREIGN FROM FULLTEXT FUNCTION GENERATED GET GRANT \
    GROUP GROUPING GROUPS HAVING HIGH_PRIORITY HOUR_MICROSECOND HOUR_MINUTE HOUR_SECOND IF IGNORE IN INDEX INFILE INNER \
    INOUT INSENSITIVE INSERT INT INT1 INT2 INT3 INT4 INT8 INTEGER INTERSECT INTERVAL INTO IO_AFTER_GTIDS IO_BEFORE_GTIDS \
    IS ITERATE JOIN JSON_TABLE KEY KEYS KILL LAG LAST_VALUE LATERAL LEAD LEADING LEAVE LEFT LIKE LIMIT LINEAR LINES LOAD \
    LOCALTIME LOCALTIMESTAMP LOCK LONG LONGBLOB LONGTEXT LOOP LOW_PRIORITY MANUAL MATCH MAXVALUE MEDIUMBLOB MEDIUMINT \
    MEDIUMTEXT MIDDLEINT MINUTE_MICROSECOND MINUTE_SECOND MOD MODIFIES NATURAL NOT NO_WRITE_TO_BINLOG NTH_VALUE NTILE \
    NULL NUMERIC OF ON OPTIMIZE OPTIMIZER_COSTS OPTION OPTIONALLY OR ORDER OUT OUTER OUTFILE OVER PARALLEL PARTITION \
    PERCENT_RANK PRECISION PRIMARY PROCEDURE PURGE QUALIFY RANGE RANK READ READS READ_WRITE REAL RECURSIVE REFERENCES \
    REGEXP RELEASE RENAME REPEAT REPLACE REQUIRE RESIGNAL RESTRICT RETURN REVOKE RIGHT RLIKE ROW ROWS ROW_NUMBER SCHEMA \
    SCHEMAS SECOND_MICROSECOND SELECT SENSITIVE SEPARATOR SET SHOW SIGNAL SMALLINT SPATIAL SPECIFIC SQL SQLEXCEPTION \
    SQLSTATE SQLWARNING SQL_BIG_RESULT SQL_CALC_FOUND_ROWS SQL_SMALL_RESULT SSL STARTING STORED STRAIGHT_JOIN SYSTEM \
    TABLE TABLESAMPLE TERMINATED THEN TINYBLOB TINYINT TINYTEXT TO TRAILING TRIGGER TRUE UNDO UNION UNIQUE UNLOCK UNSIGNED \
    UPDATE USAGE USE USING UTC_DATE UTC_TIME UTC_TIMESTAMP VALUES VARBINARY VARCHAR VARCHARACTER VARYING VIRTUAL WHEN \
    WHERE WHILE WINDOW WITH WRITE XOR YEAR_MONTH ZEROFILL";

/// Names and columns, as [`super::cells::Shape`] reads them.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("ADMINISTRABLE_ROLE_AUTHORIZATIONS", ROLE_AUTHORIZATIONS),
    ("APPLICABLE_ROLES", ROLE_AUTHORIZATIONS),
    ("CHARACTER_SETS", "CHARACTER_SET_NAME:s DEFAULT_COLLATE_NAME:s DESCRIPTION:s MAXLEN:u"),
    ("CHECK_CONSTRAINTS", "CONSTRAINT_CATALOG:s CONSTRAINT_SCHEMA:s CONSTRAINT_NAME:s CHECK_CLAUSE:s"),
    ("COLLATIONS", "COLLATION_NAME:s CHARACTER_SET_NAME:s ID:u IS_DEFAULT:s IS_COMPILED:s SORTLEN:u PAD_ATTRIBUTE:s"),
    ("COLLATION_CHARACTER_SET_APPLICABILITY", "COLLATION_NAME:s CHARACTER_SET_NAME:s"),
    (
        "COLUMNS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s COLUMN_NAME:s ORDINAL_POSITION:u COLUMN_DEFAULT:s? IS_NULLABLE:s \
         DATA_TYPE:s CHARACTER_MAXIMUM_LENGTH:i? CHARACTER_OCTET_LENGTH:i? NUMERIC_PRECISION:u? NUMERIC_SCALE:u? \
         DATETIME_PRECISION:u? CHARACTER_SET_NAME:s? COLLATION_NAME:s? COLUMN_TYPE:s COLUMN_KEY:s EXTRA:s \
         PRIVILEGES:s COLUMN_COMMENT:s GENERATION_EXPRESSION:s SRS_ID:u?",
    ),
    (
        "COLUMNS_EXTENSIONS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s COLUMN_NAME:s ENGINE_ATTRIBUTE:s? SECONDARY_ENGINE_ATTRIBUTE:s?",
    ),
    (
        "COLUMN_PRIVILEGES",
        "GRANTEE:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s COLUMN_NAME:s PRIVILEGE_TYPE:s IS_GRANTABLE:s",
    ),
    ("COLUMN_STATISTICS", "SCHEMA_NAME:s TABLE_NAME:s COLUMN_NAME:s HISTOGRAM:s"),
    ("ENABLED_ROLES", "ROLE_NAME:s? ROLE_HOST:s? IS_DEFAULT:s? IS_MANDATORY:s"),
    ("ENGINES", "ENGINE:s SUPPORT:s COMMENT:s TRANSACTIONS:s? XA:s? SAVEPOINTS:s?"),
    (
        "EVENTS",
        "EVENT_CATALOG:s EVENT_SCHEMA:s EVENT_NAME:s DEFINER:s TIME_ZONE:s EVENT_BODY:s EVENT_DEFINITION:s \
         EVENT_TYPE:s EXECUTE_AT:t? INTERVAL_VALUE:s? INTERVAL_FIELD:s? SQL_MODE:s STARTS:t? ENDS:t? STATUS:s \
         ON_COMPLETION:s CREATED:t LAST_ALTERED:t LAST_EXECUTED:t? EVENT_COMMENT:s ORIGINATOR:u \
         CHARACTER_SET_CLIENT:s COLLATION_CONNECTION:s DATABASE_COLLATION:s",
    ),
    (
        "FILES",
        "FILE_ID:i? FILE_NAME:s? FILE_TYPE:s? TABLESPACE_NAME:s? TABLE_CATALOG:s? TABLE_SCHEMA:s? TABLE_NAME:s? \
         LOGFILE_GROUP_NAME:s? LOGFILE_GROUP_NUMBER:i? ENGINE:s? FULLTEXT_KEYS:s? DELETED_ROWS:i? UPDATE_COUNT:i? \
         FREE_EXTENTS:i? TOTAL_EXTENTS:i? EXTENT_SIZE:i? INITIAL_SIZE:i? MAXIMUM_SIZE:i? AUTOEXTEND_SIZE:i? \
         CREATION_TIME:t? LAST_UPDATE_TIME:t? LAST_ACCESS_TIME:t? RECOVER_TIME:i? TRANSACTION_COUNTER:i? VERSION:i? \
         ROW_FORMAT:s? TABLE_ROWS:i? AVG_ROW_LENGTH:i? DATA_LENGTH:i? MAX_DATA_LENGTH:i? INDEX_LENGTH:i? \
         DATA_FREE:i? CREATE_TIME:t? UPDATE_TIME:t? CHECK_TIME:t? CHECKSUM:i? STATUS:s? EXTRA:s?",
    ),
    ("KEYWORDS", "WORD:s RESERVED:u"),
    (
        "KEY_COLUMN_USAGE",
        "CONSTRAINT_CATALOG:s CONSTRAINT_SCHEMA:s CONSTRAINT_NAME:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s \
         COLUMN_NAME:s ORDINAL_POSITION:u POSITION_IN_UNIQUE_CONSTRAINT:u? REFERENCED_TABLE_SCHEMA:s? \
         REFERENCED_TABLE_NAME:s? REFERENCED_COLUMN_NAME:s?",
    ),
    ("OPTIMIZER_TRACE", "QUERY:s TRACE:s MISSING_BYTES_BEYOND_MAX_MEM_SIZE:i INSUFFICIENT_PRIVILEGES:i"),
    (
        "PARAMETERS",
        "SPECIFIC_CATALOG:s SPECIFIC_SCHEMA:s SPECIFIC_NAME:s ORDINAL_POSITION:u PARAMETER_MODE:s? PARAMETER_NAME:s? \
         DATA_TYPE:s CHARACTER_MAXIMUM_LENGTH:i? CHARACTER_OCTET_LENGTH:i? NUMERIC_PRECISION:u? NUMERIC_SCALE:i? \
         DATETIME_PRECISION:u? CHARACTER_SET_NAME:s? COLLATION_NAME:s? DTD_IDENTIFIER:s ROUTINE_TYPE:s",
    ),
    (
        "PARTITIONS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s PARTITION_NAME:s? SUBPARTITION_NAME:s? \
         PARTITION_ORDINAL_POSITION:u? SUBPARTITION_ORDINAL_POSITION:u? PARTITION_METHOD:s? SUBPARTITION_METHOD:s? \
         PARTITION_EXPRESSION:s? SUBPARTITION_EXPRESSION:s? PARTITION_DESCRIPTION:s? TABLE_ROWS:u AVG_ROW_LENGTH:u \
         DATA_LENGTH:u MAX_DATA_LENGTH:u INDEX_LENGTH:u DATA_FREE:u CREATE_TIME:t? UPDATE_TIME:t? CHECK_TIME:t? \
         CHECKSUM:u? PARTITION_COMMENT:s NODEGROUP:s? TABLESPACE_NAME:s?",
    ),
    (
        "PLUGINS",
        "PLUGIN_NAME:s PLUGIN_VERSION:s PLUGIN_STATUS:s PLUGIN_TYPE:s PLUGIN_TYPE_VERSION:s PLUGIN_LIBRARY:s? \
         PLUGIN_LIBRARY_VERSION:s? PLUGIN_AUTHOR:s? PLUGIN_DESCRIPTION:s? PLUGIN_LICENSE:s? LOAD_OPTION:s",
    ),
    ("PROCESSLIST", "ID:u USER:s HOST:s DB:s? COMMAND:s TIME:i STATE:s? INFO:s?"),
    (
        "PROFILING",
        "QUERY_ID:i SEQ:i STATE:s DURATION:f CPU_USER:f? CPU_SYSTEM:f? CONTEXT_VOLUNTARY:i? CONTEXT_INVOLUNTARY:i? \
         BLOCK_OPS_IN:i? BLOCK_OPS_OUT:i? MESSAGES_SENT:i? MESSAGES_RECEIVED:i? PAGE_FAULTS_MAJOR:i? \
         PAGE_FAULTS_MINOR:i? SWAPS:i? SOURCE_FUNCTION:s? SOURCE_FILE:s? SOURCE_LINE:i?",
    ),
    (
        "REFERENTIAL_CONSTRAINTS",
        "CONSTRAINT_CATALOG:s CONSTRAINT_SCHEMA:s CONSTRAINT_NAME:s UNIQUE_CONSTRAINT_CATALOG:s \
         UNIQUE_CONSTRAINT_SCHEMA:s UNIQUE_CONSTRAINT_NAME:s? MATCH_OPTION:s UPDATE_RULE:s DELETE_RULE:s TABLE_NAME:s \
         REFERENCED_TABLE_NAME:s",
    ),
    (
        "RESOURCE_GROUPS",
        "RESOURCE_GROUP_NAME:s RESOURCE_GROUP_TYPE:s RESOURCE_GROUP_ENABLED:i VCPU_IDS:s? THREAD_PRIORITY:i",
    ),
    (
        "ROLE_COLUMN_GRANTS",
        "GRANTOR:s? GRANTOR_HOST:s? GRANTEE:s GRANTEE_HOST:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s COLUMN_NAME:s \
         PRIVILEGE_TYPE:s IS_GRANTABLE:s",
    ),
    (
        "ROLE_ROUTINE_GRANTS",
        "GRANTOR:s? GRANTOR_HOST:s? GRANTEE:s GRANTEE_HOST:s SPECIFIC_CATALOG:s SPECIFIC_SCHEMA:s SPECIFIC_NAME:s \
         ROUTINE_CATALOG:s ROUTINE_SCHEMA:s ROUTINE_NAME:s PRIVILEGE_TYPE:s IS_GRANTABLE:s",
    ),
    (
        "ROLE_TABLE_GRANTS",
        "GRANTOR:s? GRANTOR_HOST:s? GRANTEE:s GRANTEE_HOST:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s \
         PRIVILEGE_TYPE:s IS_GRANTABLE:s",
    ),
    (
        "ROUTINES",
        "SPECIFIC_NAME:s ROUTINE_CATALOG:s ROUTINE_SCHEMA:s ROUTINE_NAME:s ROUTINE_TYPE:s DATA_TYPE:s \
         CHARACTER_MAXIMUM_LENGTH:i? CHARACTER_OCTET_LENGTH:i? NUMERIC_PRECISION:u? NUMERIC_SCALE:u? \
         DATETIME_PRECISION:u? CHARACTER_SET_NAME:s? COLLATION_NAME:s? DTD_IDENTIFIER:s? ROUTINE_BODY:s \
         ROUTINE_DEFINITION:s? EXTERNAL_NAME:s? EXTERNAL_LANGUAGE:s PARAMETER_STYLE:s IS_DETERMINISTIC:s \
         SQL_DATA_ACCESS:s SQL_PATH:s? SECURITY_TYPE:s CREATED:t LAST_ALTERED:t SQL_MODE:s ROUTINE_COMMENT:s DEFINER:s \
         CHARACTER_SET_CLIENT:s COLLATION_CONNECTION:s DATABASE_COLLATION:s",
    ),
    (
        "SCHEMATA",
        "CATALOG_NAME:s SCHEMA_NAME:s DEFAULT_CHARACTER_SET_NAME:s DEFAULT_COLLATION_NAME:s SQL_PATH:s? \
         DEFAULT_ENCRYPTION:s",
    ),
    ("SCHEMATA_EXTENSIONS", "CATALOG_NAME:s SCHEMA_NAME:s OPTIONS:s?"),
    ("SCHEMA_PRIVILEGES", "GRANTEE:s TABLE_CATALOG:s TABLE_SCHEMA:s PRIVILEGE_TYPE:s IS_GRANTABLE:s"),
    (
        "STATISTICS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s NON_UNIQUE:i INDEX_SCHEMA:s INDEX_NAME:s SEQ_IN_INDEX:u \
         COLUMN_NAME:s? COLLATION:s? CARDINALITY:i? SUB_PART:i? PACKED:s? NULLABLE:s INDEX_TYPE:s COMMENT:s \
         INDEX_COMMENT:s IS_VISIBLE:s EXPRESSION:s?",
    ),
    (
        "ST_GEOMETRY_COLUMNS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s COLUMN_NAME:s SRS_NAME:s? SRS_ID:u? GEOMETRY_TYPE_NAME:s",
    ),
    (
        "ST_SPATIAL_REFERENCE_SYSTEMS",
        "SRS_NAME:s SRS_ID:u ORGANIZATION:s? ORGANIZATION_COORDSYS_ID:u? DEFINITION:s DESCRIPTION:s?",
    ),
    ("ST_UNITS_OF_MEASURE", "UNIT_NAME:s UNIT_TYPE:s CONVERSION_FACTOR:f DESCRIPTION:s?"),
    (
        "TABLES",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s TABLE_TYPE:s ENGINE:s? VERSION:i? ROW_FORMAT:s? TABLE_ROWS:u? \
         AVG_ROW_LENGTH:u? DATA_LENGTH:u? MAX_DATA_LENGTH:u? INDEX_LENGTH:u? DATA_FREE:u? AUTO_INCREMENT:u? \
         CREATE_TIME:t? UPDATE_TIME:t? CHECK_TIME:t? TABLE_COLLATION:s? CHECKSUM:i? CREATE_OPTIONS:s? TABLE_COMMENT:s",
    ),
    (
        "TABLESPACES",
        "TABLESPACE_NAME:s ENGINE:s TABLESPACE_TYPE:s? LOGFILE_GROUP_NAME:s? EXTENT_SIZE:u? AUTOEXTEND_SIZE:u? \
         MAXIMUM_SIZE:u? NODEGROUP_ID:u? TABLESPACE_COMMENT:s?",
    ),
    ("TABLESPACES_EXTENSIONS", "TABLESPACE_NAME:s ENGINE_ATTRIBUTE:s?"),
    (
        "TABLES_EXTENSIONS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s ENGINE_ATTRIBUTE:s? SECONDARY_ENGINE_ATTRIBUTE:s?",
    ),
    (
        "TABLE_CONSTRAINTS",
        "CONSTRAINT_CATALOG:s CONSTRAINT_SCHEMA:s CONSTRAINT_NAME:s TABLE_SCHEMA:s TABLE_NAME:s CONSTRAINT_TYPE:s \
         ENFORCED:s",
    ),
    (
        "TABLE_CONSTRAINTS_EXTENSIONS",
        "CONSTRAINT_CATALOG:s CONSTRAINT_SCHEMA:s CONSTRAINT_NAME:s TABLE_NAME:s ENGINE_ATTRIBUTE:s? \
         SECONDARY_ENGINE_ATTRIBUTE:s?",
    ),
    ("TABLE_PRIVILEGES", "GRANTEE:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s PRIVILEGE_TYPE:s IS_GRANTABLE:s"),
    (
        "TRIGGERS",
        "TRIGGER_CATALOG:s TRIGGER_SCHEMA:s TRIGGER_NAME:s EVENT_MANIPULATION:s EVENT_OBJECT_CATALOG:s \
         EVENT_OBJECT_SCHEMA:s EVENT_OBJECT_TABLE:s ACTION_ORDER:u ACTION_CONDITION:s? ACTION_STATEMENT:s \
         ACTION_ORIENTATION:s ACTION_TIMING:s ACTION_REFERENCE_OLD_TABLE:s? ACTION_REFERENCE_NEW_TABLE:s? \
         ACTION_REFERENCE_OLD_ROW:s ACTION_REFERENCE_NEW_ROW:s CREATED:t SQL_MODE:s DEFINER:s CHARACTER_SET_CLIENT:s \
         COLLATION_CONNECTION:s DATABASE_COLLATION:s",
    ),
    ("USER_ATTRIBUTES", "USER:s HOST:s ATTRIBUTE:s?"),
    ("USER_PRIVILEGES", "GRANTEE:s TABLE_CATALOG:s PRIVILEGE_TYPE:s IS_GRANTABLE:s"),
    (
        "VIEWS",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s VIEW_DEFINITION:s? CHECK_OPTION:s IS_UPDATABLE:s DEFINER:s \
         SECURITY_TYPE:s CHARACTER_SET_CLIENT:s COLLATION_CONNECTION:s",
    ),
    (
        "VIEW_ROUTINE_USAGE",
        "TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s SPECIFIC_CATALOG:s SPECIFIC_SCHEMA:s SPECIFIC_NAME:s",
    ),
    ("VIEW_TABLE_USAGE", "VIEW_CATALOG:s VIEW_SCHEMA:s VIEW_NAME:s TABLE_CATALOG:s TABLE_SCHEMA:s TABLE_NAME:s"),
];

pub(super) async fn rows(name: &str, tables: &Tables) -> Result<Vec<Row>, WireError> {
    Ok(match name {
        "CHARACTER_SETS" => {
            vec![row![BINARY, BINARY, "Binary pseudo charset", 1u64], row![CHARSET, COLLATION, "UTF-8 Unicode", 4u64]]
        }
        "COLLATIONS" => COLLATIONS.iter().map(collation).collect(),
        "COLLATION_CHARACTER_SET_APPLICABILITY" => {
            COLLATIONS.iter().map(|(name, charset, ..)| row![*name, *charset]).collect()
        }
        "COLUMNS" => all_tables(tables)?.iter().flat_map(columns).collect(),
        "ENGINES" => engines(),
        "KEYWORDS" => RESERVED.split_whitespace().map(|word| row![word, 1u64]).collect(),
        "PROCESSLIST" => processes(tables).await?,
        "SCHEMATA" => {
            let names = tables.catalog.databases().into_iter().map(|it| it.name);
            names.map(|name| row![CATALOG, name, CHARSET, COLLATION, Cell::Null, "NO"]).collect()
        }
        "TABLES" => all_tables(tables)?.iter().map(table).collect(),
        // No keys, routines, events and the like: nothing to show.
        _ => vec![],
    })
}

fn collation((name, charset, id, is_default): &(&str, &str, u64, &str)) -> Row {
    row![*name, *charset, *id, *is_default, "Yes", 1u64, "NO PAD"]
}

fn engines() -> Vec<Row> {
    let engine = |name: &str, support: &str, comment: &str| row![name, support, comment, "NO", "NO", "NO"];
    vec![
        engine("CSV", "YES", "External files of comma-separated values"),
        engine("JSON", "YES", "External files of one JSON object a line"),
        engine("PARQUET", "DEFAULT", "External Parquet files"),
        engine("SYSTEM", "YES", "What the server tells about itself"),
        engine("TPCH", "YES", "Tables of TPC-H, generated when they are read"),
    ]
}

fn table(table: &TableInfo) -> Row {
    if table.is_view() {
        return view(table);
    }
    let created = table.created_ms.map(Cell::Time);
    // How many rows and bytes there are, only a scan of the files could tell.
    let unknown = || Cell::Null;
    row![
        CATALOG,
        &table.database,
        &table.name,
        table.table_type,
        table.engine,
        10i64,
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        Cell::Null,
        created,
        Cell::Null,
        Cell::Null,
        COLLATION,
        Cell::Null,
        "",
        managed(table).and_then(|it| it.comment.clone()).unwrap_or_default(),
    ]
}

/// As MySQL has it: nothing is known but that it is there.
fn view(view: &TableInfo) -> Row {
    let mut row = row![CATALOG, &view.database, &view.name, view.table_type];
    row.extend(std::iter::repeat_with(|| Cell::Null).take(10));
    row.push(view.created_ms.map_or(Cell::Null, Cell::Time));
    row.extend(std::iter::repeat_with(|| Cell::Null).take(5));
    row.push("VIEW".into());
    row
}

fn managed(table: &TableInfo) -> Option<&ManagedDef> {
    match &table.def.as_ref()?.source {
        TableSource::Managed(managed) => Some(managed),
        TableSource::Files(_) => None,
    }
}

fn columns(table: &TableInfo) -> Vec<Row> {
    let signed = |value: Option<u64>| value.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
    let fields = table.schema.fields().iter().zip(1u64..);
    fields
        .map(|(field, position)| {
            let mysql = mysql_type(field.data_type());
            let managed = managed(table).and_then(|it| it.column(field.name()));
            row![
                CATALOG,
                &table.database,
                &table.name,
                field.name(),
                position,
                managed.and_then(ManagedColumn::shown_default),
                if field.is_nullable() { "YES" } else { "NO" },
                mysql.data_type,
                signed(mysql.characters_max),
                signed(mysql.octets_max),
                mysql.numeric_precision,
                mysql.numeric_scale.and_then(|it| u64::try_from(it).ok()),
                mysql.datetime_precision,
                mysql.is_text.then_some(CHARSET),
                mysql.is_text.then_some(COLLATION),
                mysql.column_type,
                "",
                "",
                "select",
                managed.and_then(|it| it.comment.clone()).unwrap_or_default(),
                "",
                Cell::Null,
            ]
        })
        .collect()
}

async fn processes(tables: &Tables) -> Result<Vec<Row>, WireError> {
    let processes = tables.system.processes().await?.into_iter();
    Ok(processes
        .map(|it| {
            let seconds = i64::try_from(elapsed_ms(it.since_ms) / 1000).unwrap_or(i64::MAX);
            row![it.connection_id, it.user, it.client_host, it.database, it.command, seconds, it.state, it.statement]
        })
        .collect())
}

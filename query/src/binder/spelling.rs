//! One spelling for every name of a tree.

use std::collections::HashMap;
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ResolvedTableReference;
use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, ExcludeSelectItem, Expr, Ident, JoinConstraint, NamedWindowExpr, ObjectName, ObjectNamePart,
    Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins,
    VisitMut, VisitorMut, WildcardAdditionalOptions, WindowType,
};
use sheaf_planners::parser::ast::join_constraint;

pub(super) struct Spelling {
    /// Quoted names, too, are read without regard to letters.
    is_mysql: bool,
    /// By small letters: how names of tables and columns are really spelled.
    known: HashMap<String, Vec<String>>,
    /// By small letters of a table's name or alias: the spellings of its columns.
    columns: HashMap<String, HashMap<String, String>>,
    /// What the FROM clauses name, and what they shall.
    relations: HashMap<ObjectName, ObjectName>,
}

impl Spelling {
    pub fn new(is_mysql: bool) -> Self {
        Self { is_mysql, known: HashMap::new(), columns: HashMap::new(), relations: HashMap::new() }
    }

    pub fn add_table(&mut self, name: &ObjectName, reference: &ResolvedTableReference, schema: &Schema) {
        let parts = [&reference.catalog, &reference.schema, &reference.table];
        let parts = &parts[parts.len() - name.0.len().min(parts.len())..];
        let spelled: Vec<Ident> = parts.iter().map(|it| Ident::with_quote('`', it.as_ref())).collect();
        for part in parts {
            self.know(part);
        }
        let columns = self.columns.entry(reference.table.to_lowercase()).or_default();
        columns.extend(schema.fields().iter().map(|it| (it.name().to_lowercase(), it.name().clone())));
        for field in schema.fields() {
            self.know_field(field);
        }
        self.relations.insert(name.clone(), ObjectName::from(spelled));
    }

    fn know(&mut self, name: &str) {
        let spellings = self.known.entry(name.to_lowercase()).or_default();
        if !spellings.iter().any(|it| it == name) {
            spellings.push(name.to_owned());
        }
    }

    /// A column and, for structs, what is within it.
    fn know_field(&mut self, field: &Field) {
        self.know(field.name());
        match field.data_type() {
            DataType::Struct(fields) => fields.iter().for_each(|it| self.know_field(it)),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                if let DataType::Struct(fields) = item.data_type() {
                    fields.iter().for_each(|it| self.know_field(it));
                }
            }
            _ => {}
        }
    }

    /// Rewrites the names of `query`. Recurses: call it where the stack grows.
    pub fn apply(mut self, query: &mut Query) {
        let ControlFlow::Continue(()) = query.visit(&mut Aliases { spelling: &mut self });
        let ControlFlow::Continue(()) = query.visit(&mut Respell { spelling: &self });
    }

    fn spell(&self, ident: &mut Ident) {
        if !self.is_mysql && ident.quote_style.is_some() {
            return;
        }
        let lower = ident.value.to_lowercase();
        ident.value = match self.known.get(&lower).map(Vec::as_slice) {
            None | Some([]) => lower,
            Some([one]) => one.clone(),
            Some(several) => match several.iter().find(|it| **it == ident.value || **it == lower) {
                Some(found) => found.clone(),
                None => several[0].clone(),
            },
        };
    }

    /// `alias.column`: as the table behind the alias has it.
    fn spell_qualified(&self, parts: &mut [Ident]) {
        let qualifier = parts.len().checked_sub(2).map(|it| parts[it].value.to_lowercase());
        for part in parts.iter_mut() {
            self.spell(part);
        }
        let Some(column) = parts.last_mut() else { return };
        if (self.is_mysql || column.quote_style.is_none())
            && let Some(columns) = qualifier.and_then(|it| self.columns.get(&it))
            && let Some(name) = columns.get(&column.value.to_lowercase())
            && !columns.values().any(|it| *it == column.value)
        {
            column.value = name.clone();
        }
    }

    fn spell_name(&self, name: &mut ObjectName) {
        for part in &mut name.0 {
            if let ObjectNamePart::Identifier(ident) = part {
                self.spell(ident);
            }
        }
    }

    fn spell_alias(&self, alias: &mut Option<TableAlias>) {
        if let Some(alias) = alias {
            self.spell(&mut alias.name);
            for column in &mut alias.columns {
                self.spell(&mut column.name);
            }
        }
    }
}

/// Learns which table an alias stands for, before names are changed.
struct Aliases<'a> {
    spelling: &'a mut Spelling,
}

impl VisitorMut for Aliases<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, alias: Some(alias), args: None, .. } = factor
            && let Some(ObjectNamePart::Identifier(table)) = name.0.last()
            && let Some(columns) = self.spelling.columns.get(&table.value.to_lowercase()).cloned()
        {
            self.spelling.columns.entry(alias.name.value.to_lowercase()).or_insert(columns);
        }
        ControlFlow::Continue(())
    }
}

struct Respell<'a> {
    spelling: &'a Spelling,
}

impl Respell<'_> {
    fn wildcard(&self, options: &mut WildcardAdditionalOptions) {
        if let Some(ExceptSelectItem { first_element, additional_elements }) = &mut options.opt_except {
            self.spelling.spell(first_element);
            additional_elements.iter_mut().for_each(|it| self.spelling.spell(it));
        }
        match &mut options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => self.spelling.spell_name(name),
            Some(ExcludeSelectItem::Multiple(names)) => names.iter_mut().for_each(|it| self.spelling.spell_name(it)),
            None => {}
        }
        if let Some(replace) = &mut options.opt_replace {
            replace.items.iter_mut().for_each(|it| self.spelling.spell(&mut it.column_name));
        }
    }

    fn joins(&self, from: &mut TableWithJoins) {
        for join in &mut from.joins {
            if let Some(JoinConstraint::Using(columns)) = join_constraint(&mut join.join_operator) {
                columns.iter_mut().for_each(|it| self.spelling.spell_name(it));
            }
        }
    }
}

impl VisitorMut for Respell<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        for cte in query.with.iter_mut().flat_map(|it| &mut it.cte_tables) {
            self.spelling.spell(&mut cte.alias.name);
            for column in &mut cte.alias.columns {
                self.spelling.spell(&mut column.name);
            }
        }
        if let SetExpr::Table(table) = query.body.as_mut() {
            for name in [&mut table.schema_name, &mut table.table_name].into_iter().flatten() {
                let mut ident = Ident::new(name.as_str());
                self.spelling.spell(&mut ident);
                *name = ident.value;
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        for item in &mut select.projection {
            match item {
                SelectItem::UnnamedExpr(_) => {}
                SelectItem::ExprWithAlias { alias, .. } => self.spelling.spell(alias),
                SelectItem::ExprWithAliases { aliases, .. } => {
                    aliases.iter_mut().for_each(|it| self.spelling.spell(it))
                }
                SelectItem::QualifiedWildcard(kind, options) => {
                    if let SelectItemQualifiedWildcardKind::ObjectName(name) = kind {
                        self.spelling.spell_name(name);
                    }
                    self.wildcard(options);
                }
                SelectItem::Wildcard(options) => self.wildcard(options),
            }
        }
        select.from.iter_mut().for_each(|it| self.joins(it));
        for window in &mut select.named_window {
            self.spelling.spell(&mut window.0);
            match &mut window.1 {
                NamedWindowExpr::NamedWindow(name) => self.spelling.spell(name),
                NamedWindowExpr::WindowSpec(spec) => spec.window_name.iter_mut().for_each(|it| self.spelling.spell(it)),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table { name, alias, args, .. } => {
                match self.spelling.relations.get(name) {
                    _ if args.is_some() => {}
                    Some(spelled) => *name = spelled.clone(),
                    None => self.spelling.spell_name(name),
                }
                self.spelling.spell_alias(alias);
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.joins(table_with_joins);
                self.spelling.spell_alias(alias);
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Pivot { alias, .. }
            | TableFactor::Unpivot { alias, .. } => self.spelling.spell_alias(alias),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Identifier(ident) => self.spelling.spell(ident),
            Expr::CompoundIdentifier(parts) => self.spelling.spell_qualified(parts),
            Expr::QualifiedWildcard(name, _) => self.spelling.spell_name(name),
            Expr::Function(function) => match &mut function.over {
                Some(WindowType::NamedWindow(name)) => self.spelling.spell(name),
                Some(WindowType::WindowSpec(spec)) => {
                    spec.window_name.iter_mut().for_each(|it| self.spelling.spell(it));
                }
                None => {}
            },
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
